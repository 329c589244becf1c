"""Who is charged what, by hand-worked examples."""

import json
from typing import Any

from safetensors.torch import load, save

from compression.wire import dense_bytes
from fl.comm.ledger import ClientBytes, Closing, Ledger, SubmodelSize
from fl.comm.message import ClientReport
from fl.common.tensor_files import State, join_state, split_state
from fl.pruning.plan import NewMask
from fl.rounds.costs import charge_bytes
from fl.rounds.result import Held, Peers, RoundResult


def make() -> Ledger:
    return Ledger(parameters=1000, buffers=10)


def close_round(
    ledger: Ledger,
    uplinks: dict[int, int],
    *,
    change_bytes: int,
    buffers_bytes: int,
    peers: Peers | None = None,
    new_mask: NewMask = NewMask(),  # noqa: B008 - frozen
    held: int | None = None,
    held_buffers: int | None = None,
    holdings: dict[int, SubmodelSize] | None = None,
    is_last: bool = False,
) -> list[ClientBytes]:
    """A round of clients that sent so many bytes each, by default of the whole model."""
    reports = [ClientReport(client, 1, 0.0, 0.0, 0, {"update": sent}) for client, sent in uplinks.items()]
    n, m = ledger._parameters if held is None else held, ledger._buffers if held_buffers is None else held_buffers
    result = RoundResult(
        reports,
        Held(n, m, holdings or {}, new_mask),
        {"change": change_bytes, "buffers": buffers_bytes},
        peers=peers,
    )
    rows, _ = charge_bytes(ledger, result)
    return [row + ledger.closing(row.client) for row in rows] if is_last else rows


MODEL = (24 + 4000) + (24 + 40)


def saved(ledger: Ledger) -> State:
    """Its state as a checkpoint holds it."""
    tensors, rest = split_state(ledger.state_dict())
    return join_state(load(save(tensors)), json.loads(json.dumps(rest)))


def plain(ledger: Ledger) -> dict[str, Any]:
    """Its state without tensors."""
    return {name: getattr(value, "tolist", lambda value=value: value)() for name, value in ledger.state_dict().items()}


def down(rows) -> dict[int, int]:
    return {row.client: row.downlink_bytes for row in rows}


def test_dense_model_is_parameters_and_buffers_with_their_headers():
    """A header is 24 bytes, a coordinate 4."""
    assert make().model_bytes == MODEL
    assert Ledger(parameters=1000, buffers=0).model_bytes == dense_bytes(1000) == 4024


def test_first_download_is_the_whole_model_then_only_what_was_missed():
    """Two clients, three rounds. Round 0: the model each. Round 1: round 0's change of 100 with buffers of 56. The last
    round also delivers its own change; if another follows, it is charged as if that had not been the last."""
    ledger = make()
    first = close_round(ledger, {0: 7, 1: 8}, change_bytes=100, buffers_bytes=56)
    assert down(first) == {0: MODEL, 1: MODEL}
    assert [row.uplink_bytes for row in first] == [7, 8]
    second = close_round(ledger, {0: 7, 1: 8}, change_bytes=200, buffers_bytes=56)
    assert down(second) == {0: 156, 1: 156}
    last = close_round(ledger, {0: 7, 1: 8}, change_bytes=300, buffers_bytes=56, is_last=True)
    assert down(last) == {0: 256 + 356, 1: 256 + 356}
    another = close_round(ledger, {0: 7, 1: 8}, change_bytes=1, buffers_bytes=56)
    assert down(another) == {0: 356, 1: 356}


def test_returning_client_is_charged_the_smaller_of_missed_changes_and_the_model():
    """Client 1 misses rounds 1 and 2 (200 + 300 bytes) and comes back: 100 + 200 + 300 and one set of buffers. Client 2
    misses more than a model is worth."""
    ledger = make()
    close_round(ledger, {1: 5, 2: 5}, change_bytes=100, buffers_bytes=56)
    close_round(ledger, {0: 5}, change_bytes=200, buffers_bytes=56)
    close_round(ledger, {0: 5}, change_bytes=300, buffers_bytes=56)
    assert down(close_round(ledger, {1: 5}, change_bytes=9000, buffers_bytes=56)) == {1: 656}
    assert down(close_round(ledger, {2: 5}, change_bytes=1, buffers_bytes=56)) == {2: MODEL}


def test_dense_baseline_replaces_each_message_by_the_model():
    """One download a round, and one more for the delivery after the last."""
    ledger = make()
    rows = close_round(ledger, {0: 5}, change_bytes=100, buffers_bytes=56)
    assert (rows[0].uplink_dense_bytes, rows[0].downlink_dense_bytes) == (MODEL, MODEL)
    rows = close_round(ledger, {0: 5}, change_bytes=100, buffers_bytes=56, is_last=True)
    assert (rows[0].uplink_dense_bytes, rows[0].downlink_dense_bytes) == (MODEL, 2 * MODEL)


def test_step_mode_counts_an_exchange_every_step():
    """Three exchanges of 1,000 coordinates and one of 10 BatchNorm statistics, dense 12,040 bytes each way, and the first
    download; plain DDP therefore has a ratio of exactly 1."""
    ledger = make()
    rows = close_round(ledger, {0: 12040}, change_bytes=0, buffers_bytes=0, peers=Peers(3, {0: 12040}), is_last=True)
    assert rows[0].downlink_bytes == MODEL + 12040
    assert (rows[0].uplink_dense_bytes, rows[0].downlink_dense_bytes) == (12040, MODEL + 12040)


def test_hook_rounds_add_the_all_reduce_to_the_download():
    """A round through a hook: one dense all-reduce of 4,040 bytes each way, and the server's message as ever."""
    rows = close_round(make(), {0: 50}, change_bytes=100, buffers_bytes=56, peers=Peers(1, {0: 60}))
    assert (rows[0].uplink_dense_bytes, rows[0].downlink_dense_bytes) == (4040, MODEL + 4040)
    assert rows[0].downlink_bytes == MODEL + 60


def test_state_survives_a_checkpoint():
    """A ledger that went through a file charges the next rounds as the original does."""
    one, other = make(), make()
    close_round(one, {0: 5, 3: 6}, change_bytes=100, buffers_bytes=56)
    other.load_state_dict(saved(one))
    for ledger in (one, other):
        close_round(ledger, {3: 5}, change_bytes=70, buffers_bytes=56)
    assert close_round(one, {0: 1, 3: 1, 4: 1}, change_bytes=1, buffers_bytes=56) == close_round(
        other, {0: 1, 3: 1, 4: 1}, change_bytes=1, buffers_bytes=56
    )
    assert plain(one) == plain(other)


def test_a_mask_is_paid_once_and_then_saves_bytes():
    """Round 0 without a mask. Round 1 begins with a mask of 30 bytes that holds 200 of 1,000: client 0 gets round 0's change
    and the mask; client 1, new, the mask, 200 weights and the buffers. Round 2: only what was missed."""
    ledger = make()
    assert down(close_round(ledger, {0: 7}, change_bytes=100, buffers_bytes=64, held=1000)) == {0: MODEL}
    rows = close_round(ledger, {0: 7, 1: 7}, change_bytes=50, buffers_bytes=64, new_mask=NewMask(30), held=200)
    assert down(rows) == {0: 100 + 30 + 64, 1: 30 + (24 + 4 * 200) + 64}
    assert [row.downlink_dense_bytes for row in rows] == [MODEL, MODEL]
    again = make()
    again.load_state_dict(saved(ledger))
    for each in (ledger, again):
        assert down(close_round(each, {0: 7, 2: 7}, change_bytes=50, buffers_bytes=64, held=200)) == {
            0: 50 + 64,
            2: 30 + (24 + 4 * 200) + 64,
        }


def test_a_client_downloads_its_part_and_what_is_new_in_it():
    """Parts of 100 and 400 of 1000 coordinates, masks of 30 and 50 bytes, changes of 200 with no buffers. Round 0: part and
    mask each. Round 1: the change, which is less than the part. Round 2: client 0's part has grown to 400: the change,
    the other mask, and 300 numbers with a header. Round 3: another ranking: everything again."""
    ledger = Ledger(parameters=1000, buffers=0)
    small, large = SubmodelSize(100, 0, 1, 30), SubmodelSize(400, 0, 1, 50)
    rows = close_round(ledger, {0: 5, 1: 5}, change_bytes=200, buffers_bytes=0, holdings={0: small, 1: large})
    assert down(rows) == {0: 24 + 400 + 30, 1: 24 + 1600 + 50}
    rows = close_round(ledger, {0: 5, 1: 5}, change_bytes=200, buffers_bytes=0, holdings={0: small, 1: large})
    assert down(rows) == {0: 200, 1: 200}
    rows = close_round(ledger, {0: 5, 1: 5}, change_bytes=9000, buffers_bytes=0, holdings={0: large, 1: large})
    assert down(rows) == {0: 200 + 50 + 24 + 1200, 1: 200}
    ledger.load_state_dict(saved(ledger))
    rows = close_round(ledger, {0: 5, 1: 5}, change_bytes=9000, buffers_bytes=0, holdings={0: large, 1: large})
    assert down(rows) == {0: 24 + 1600, 1: 24 + 1600}
    again = SubmodelSize(100, 0, 2, 30)
    rows = close_round(ledger, {0: 5}, change_bytes=300, buffers_bytes=0, holdings={0: again})
    assert down(rows) == {0: 24 + 400 + 30}
    assert ledger.closing(0, query_bytes=(7, 11)) == Closing(7, 11 + 300, 4024)


def test_the_end_delivers_all_that_a_client_missed():
    """Changes of 100, 200 and 300 with buffers of 64. Client 0 has begun before all of them, client 1 before the last,
    client 2 when there is nothing to miss; what client 3 began is lost. No delivery is larger than the model."""
    ledger = make()
    ledger.download(0)
    ledger.publish({"change": 100, "buffers": 64})
    ledger.publish({"change": 200, "buffers": 64})
    ledger.download(1)
    ledger.download(3)
    ledger.forget(3)
    ledger.publish({"change": 300, "buffers": 64})
    ledger.download(2)
    ends = [ledger.closing(client) for client in (0, 1, 2, 3)]
    assert [each.downlink_bytes for each in ends] == [664, 364, 0, 0]
    assert [each.downlink_dense_bytes for each in ends] == [MODEL, MODEL, 0, 0]
    assert ledger.download(1)[0] == 364, "nothing was noted"
    ledger.publish({"change": 10**6, "buffers": 64})
    assert ledger.closing(0).downlink_bytes == MODEL


def test_the_end_delivers_no_more_than_a_part():
    """A part of 100 coordinates and 4 buffers; a change of 9,000."""
    ledger = Ledger(parameters=1000, buffers=10)
    ledger.download(0, SubmodelSize(100, 4, 1, 30))
    ledger.publish({"change": 9000, "buffers": 24 + 16})
    assert ledger.closing(0).downlink_bytes == (24 + 400) + (24 + 16)


def test_a_download_that_never_began_is_as_if_it_had_not_been_asked_for():
    """A client that was to start, and was given up on before: what it missed is charged when it starts indeed."""
    ledger, part = Ledger(parameters=1000, buffers=0), SubmodelSize(100, 0, 1, 30)
    noted = ledger.noted(0)
    assert ledger.download(0, part)[0] == 24 + 400 + 30
    ledger.restore(0, noted)
    assert ledger.download(0, part)[0] == 24 + 400 + 30
    ledger.publish({"change": 50, "buffers": 0})
    noted = json.loads(json.dumps(ledger.noted(0)))
    assert ledger.download(0, part)[0] == 50
    ledger.restore(0, noted)
    assert ledger.download(0, part)[0] == 50


def test_who_chooses_the_mask_pays_for_what_it_looked_at():
    """Round 1 begins with a mask of 30 that client 0 chose and told beforehand: it needs the change of 200,
    not the mask. Client 1 needs both. Client 2 is new: 100 weights, 4 buffers and the mask."""
    ledger = make()
    close_round(ledger, {0: 5, 1: 5}, change_bytes=200, buffers_bytes=0)
    rows = close_round(
        ledger,
        {0: 5, 1: 5, 2: 5},
        change_bytes=9,
        buffers_bytes=0,
        new_mask=NewMask(30, chooser=0),
        held=100,
        held_buffers=4,
    )
    assert down(rows) == {0: 200, 1: 230, 2: 24 + 400 + 24 + 16 + 30}
    assert [row.uplink_bytes for row in rows] == [35, 5, 5]


def test_rewound_weights_are_a_change_and_no_part_of_a_mask():
    """A mask of 30 and rewound weights of 424 begin round 1. Who was there downloads both; who comes new in round 2
    downloads the newest weights and the mask."""
    ledger = Ledger(parameters=1000, buffers=0)
    close_round(ledger, {0: 5}, change_bytes=7, buffers_bytes=0)
    rows = close_round(ledger, {0: 5}, change_bytes=8, buffers_bytes=0, new_mask=NewMask(30, 424), held=100)
    assert down(rows) == {0: min(7 + 30 + 424, 424 + 30)}
    rows = close_round(ledger, {0: 5, 1: 5}, change_bytes=8, buffers_bytes=0, held=100)
    assert down(rows) == {0: 8, 1: 424 + 30}


def test_a_new_ranking_means_nothing_to_who_holds_everything():
    """All 1000 coordinates before and after: the change alone."""
    ledger = Ledger(parameters=1000, buffers=0)
    for ranking, wanted in ((1, 24 + 4000), (2, 50), (3, 50)):
        rows = close_round(
            ledger, {0: 5}, change_bytes=50, buffers_bytes=0, holdings={0: SubmodelSize(1000, 0, ranking, 0)}
        )
        assert down(rows) == {0: wanted}


def test_a_part_that_shrinks_costs_its_mask():
    """The client holds all the numbers already, and must be told which of them stay; then also what changed meanwhile."""
    ledger = Ledger(parameters=1000, buffers=0)
    whole = ledger.download(0, SubmodelSize(held=800, buffers=0, ranking=1, mask_bytes=150))[0]
    assert whole == dense_bytes(800) + 150
    assert ledger.download(0, SubmodelSize(held=500, buffers=0, ranking=1, mask_bytes=120))[0] == 120
    ledger.publish({"change": 60, "buffers": 0})
    assert ledger.download(0, SubmodelSize(held=400, buffers=0, ranking=1, mask_bytes=110))[0] == 170
    assert ledger.download(0, SubmodelSize(held=400, buffers=0, ranking=1, mask_bytes=110))[0] == 0
