"""What a round is charged, by hand; the ledger's own arithmetic is in tests/fl/comm/test_ledger.py."""

from compression.wire import dense_bytes
from fl.comm.ledger import ClientBytes, Ledger, SubmodelSize
from fl.comm.message import ClientReport
from fl.pruning.plan import NewMask
from fl.rounds.costs import charge_bytes
from fl.rounds.result import Charge, Held, RoundResult

_WHOLE = dense_bytes(1000) + dense_bytes(10)


def _make() -> Ledger:
    return Ledger(parameters=1000, buffers=10)


def _reports(*clients: int) -> list[ClientReport]:
    return [ClientReport(client, 1, 0.0, 0.0, 0, {"update": 100 + client, "buffers": 7}) for client in clients]


def test_a_download_that_was_charged_when_it_began_is_not_charged_again() -> None:
    """In virtual time: each row has what its client downloaded when it started, also if that was nothing, and its baseline
    is the whole model for each message. The ledger, which noted it then, stays as it is."""
    ledger = _make()
    before = str(ledger.state_dict())
    result = RoundResult(_reports(4, 1), published={"change": 50}, charges=[Charge(300, 1, 1), Charge(0, 1, 1)])
    assert charge_bytes(ledger, result)[0] == [
        ClientBytes(4, 111, 300, _WHOLE, _WHOLE, 300),
        ClientBytes(1, 108, 0, _WHOLE, 0, 0),
    ]
    assert str(ledger.state_dict()) == before


def test_rows_are_in_the_order_of_the_reports_and_the_change_comes_after_them() -> None:
    """First everything, then the change of 50 bytes and buffers of 64; who was away pays for all it missed."""
    ledger = _make()
    sizes = {"change": 50, "buffers": 64}
    first, _ = charge_bytes(ledger, RoundResult(_reports(1, 0), Held(1000, 10), sizes))
    assert [(row.client, row.uplink_bytes, row.downlink_bytes) for row in first] == [(1, 108, _WHOLE), (0, 107, _WHOLE)]
    second, _ = charge_bytes(ledger, RoundResult(_reports(0), Held(1000, 10), sizes))
    assert [row.downlink_bytes for row in second] == [114]
    third, _ = charge_bytes(ledger, RoundResult(_reports(0, 1), Held(1000, 10), sizes))
    assert [row.downlink_bytes for row in third] == [114, 164]
    assert all(row.begin_bytes == row.downlink_bytes for row in first + second + third)


def test_a_variate_goes_to_everybody_who_begins() -> None:
    """SCAFFOLD's: with the change that it came with, and with a first download."""
    ledger = _make()
    sizes = {"change": 50, "variate": 4024}
    charge_bytes(ledger, RoundResult(_reports(0), Held(1000, 10), sizes))
    rows, _ = charge_bytes(ledger, RoundResult(_reports(0, 1), Held(1000, 10), sizes))
    assert [row.downlink_bytes for row in rows] == [50 + 4024, _WHOLE + 4024]


def test_clients_that_differ_download_by_their_own_size() -> None:
    """400 coordinates and no buffers with a mask of 30 bytes, and all of it."""
    sizes = {0: SubmodelSize(400, 0, 1, 30), 1: SubmodelSize(1000, 10, 1, 0)}
    rows, _ = charge_bytes(_make(), RoundResult(_reports(0, 1), Held(700, 0, sizes), {"change": 50}))
    assert [row.downlink_bytes for row in rows] == [dense_bytes(400) + 30, _WHOLE]


def test_who_chooses_a_mask_sends_it() -> None:
    """30 bytes up, and down what it looked at; the others download the mask with the 600 weights inside it."""
    held = Held(600, 10, new_mask=NewMask(30, 0, chooser=2))
    rows, _ = charge_bytes(_make(), RoundResult(_reports(2, 3), held, {"change": 50}))
    assert [row.uplink_bytes for row in rows] == [109 + 30, 110]
    assert [row.downlink_bytes for row in rows] == [_WHOLE, dense_bytes(600) + dense_bytes(10) + 30]
    assert [row.downlink_dense_bytes for row in rows] == [_WHOLE, _WHOLE]
