"""Messages to rank 0 and its answer, between real ranks. Oracle: every rank can make all messages itself."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from fl.comm.message import PUBLISHED, SECTIONS, Bounds, ClientReport, Message, Rejection
from fl.comm.transport import Transport
from fl.common.errors import RoundError
from fl.common.ranks import Ranks
from tests.support import on_ranks

pytestmark = pytest.mark.slow

_COHORT = [0, 2, 3, 4, 7, 8, 11]  # on three ranks: two, two and three clients


def _ranks(rank: int, world_size: int) -> Ranks:
    cpu = torch.device("cpu")
    return Ranks(
        rank=rank,
        world_size=world_size,
        local_rank=rank,
        local_world_size=world_size,
        device=cpu,
        wire_device=cpu,
        launcher="torchrun",
        threads=1,
    )


def _bytes(count: int, seed: int) -> Tensor:
    return torch.randint(256, (count,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def _message(client: int) -> Message:
    """An update of 20 bytes and more, and of the other sections some."""
    sizes = {name: 3 * client + at for at, name in enumerate(SECTIONS) if (client >> at) % 2}
    sizes = {**{name: size for name, size in sizes.items() if size}, "update": 20 + client}
    sections = {name: _bytes(sizes[name], 10 * client + at) for at, name in enumerate(SECTIONS) if name in sizes}
    return Message(ClientReport(client, client + 1, client / 3, 0.1, 5 * client, sizes, client % 2 == 0), sections)


def _bounds(client: int) -> Bounds:
    return Bounds(samples=client + 1, kept=5 * client, sizes=dict.fromkeys(SECTIONS, 100))


def _never(rejection: Rejection) -> None:
    raise AssertionError(rejection)


def _check(taken: list[Message], clients: list[int]) -> None:
    assert [message.report.client for message in taken] == clients
    for message, expected in zip(taken, map(_message, clients), strict=True):
        assert message.report == expected.report
        _check_sections(message.sections, expected.sections)


def _check_sections(taken: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(taken) == list(expected)
    for name, section in expected.items():
        assert taken[name].dtype == torch.uint8
        assert taken[name].equal(section), name


class _Maker:
    """Makes the messages of a rank's clients when they are asked for; that of `broken` it cannot."""

    def __init__(self, ranks: Ranks, broken: int | None = None) -> None:
        self.made: list[int] = []
        self.own = [client for client in _COHORT if ranks.hosts(client)]
        self._broken = broken

    def messages(self) -> Iterator[Message]:
        for client in self.own:
            if client == self._broken:
                raise ValueError("this client fails")
            self.made.append(client)
            yield _message(client)


def _gather(rank: int, world_size: int) -> None:
    ranks = _ranks(rank, world_size)
    for batch in range(1, len(_COHORT) + 2):
        transport, maker = Transport(ranks, 100), _Maker(ranks)
        transport._batch = batch
        taken = []
        for message in transport.gather(_COHORT, maker.messages(), _bounds, _never):
            begun = _COHORT[: (len(taken) // batch + 1) * batch]
            assert maker.made == [client for client in begun if ranks.hosts(client)], "no earlier than its batch"
            taken.append(message)
        _check(taken, _COHORT if rank == 0 else [])
        assert maker.made == maker.own
        assert transport.reports == [_message(client).report for client in _COHORT]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_messages_arrive_in_the_order_of_the_cohort(world_size: int) -> None:
    """In batches of every size: whole, section by section, and their reports on every rank."""
    on_ranks(world_size, _gather)


def _send_nothing(rank: int, world_size: int) -> None:
    ranks = _ranks(rank, world_size)
    silent = {2, 3, 8}
    reports = {client: _message(client).report for client in _COHORT}
    messages = [
        Message(replace(reports[client], sizes={}), {}) if client in silent else _message(client)
        for client in filter(ranks.hosts, _COHORT)
    ]
    taken = list(Transport(ranks, 100).gather(_COHORT, iter(messages), _bounds, _never))
    assert [set(message.sections) for message in taken if message.report.client in silent] == [set()] * 3 * (rank == 0)
    _check([message for message in taken if message.report.client not in silent], [0, 4, 7, 11] if rank == 0 else [])


def test_a_client_may_send_no_section() -> None:
    """Three of seven do, on two ranks: theirs are empty, and the others' arrive."""
    on_ranks(2, _send_nothing)


def test_a_batch_is_a_client_a_rank_or_what_half_a_gigabyte_holds() -> None:
    """One alone where there is one rank; 10 million coordinates are 40 MB, of which 12 are below 512 MB; of a model of 8 GB
    still one from each rank."""
    assert Transport(_ranks(0, 1), 10)._batch == 1
    assert Transport(_ranks(0, 3), 10_000_000)._batch == 12
    assert Transport(_ranks(0, 3), 2_000_000_000)._batch == 3


def _fail(rank: int, world_size: int) -> None:
    ranks = _ranks(rank, world_size)
    for batch in (1, 3, len(_COHORT)):
        for broken in _COHORT:
            transport, maker, taken = Transport(ranks, 100), _Maker(ranks, broken), []
            transport._batch = batch
            with pytest.raises(ValueError if ranks.hosts(broken) else RoundError):
                taken.extend(transport.gather(_COHORT, maker.messages(), _bounds, _never))
            whole = _COHORT[: _COHORT.index(broken) // batch * batch]
            _check(taken, whole if rank == 0 else [])
            _check(
                list(transport.gather(_COHORT, _Maker(ranks).messages(), _bounds, _never)), _COHORT if rank == 0 else []
            )


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_rank_that_fails_ends_it_on_every_rank(world_size: int) -> None:
    """Every client in turn: the batches before its own have arrived, and the next cohort finds nothing on the wire."""
    on_ranks(world_size, _fail)


def _published() -> list[dict[str, Tensor]]:
    subsets = chain.from_iterable(combinations(PUBLISHED, count) for count in range(len(PUBLISHED) + 1))
    return [{name: _bytes(7 + 5 * at, at) for at, name in enumerate(subset)} for subset in subsets]


def _share(rank: int, world_size: int) -> None:
    transport = Transport(_ranks(rank, world_size), 100)
    calls: list[Any] = []

    def failing() -> dict[str, Tensor]:
        raise ValueError("the server fails")

    for sections in _published():
        with pytest.raises(ValueError if rank == 0 else RoundError):
            transport.share(failing)
        _check_sections(transport.share(lambda sections=sections: calls.append(1) or sections), sections)
    assert len(calls) == (len(_published()) if rank == 0 else 0)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_rank_0_publishes_is_the_same_everywhere(world_size: int) -> None:
    """All eight subsets of its sections, each after a failure, which every rank raises."""
    on_ranks(world_size, _share)


def _reject(rank: int, world_size: int) -> None:
    ranks, failed, liar = _ranks(rank, world_size), {0: "it fails", 8: "é" * 400}, 4

    def outcomes() -> Iterator[Message | Rejection]:
        for client in filter(ranks.hosts, _COHORT):
            message = _message(client)
            if client in failed:
                yield Rejection(client, failed[client], error=ValueError(client))
            elif client == liar:
                yield Message(replace(message.report, samples=10**18), message.sections)
            else:
                yield message

    for batch in (1, 3, len(_COHORT)):
        transport = Transport(ranks, 100)
        transport._batch = batch
        told: list[Rejection] = []
        taken = list(transport.gather(_COHORT, outcomes(), _bounds, told.append))
        others = [client for client in _COHORT if client not in (*failed, liar)]
        _check(taken, others if rank == 0 else [])
        assert [report.client for report in transport.reports] == others
        assert [(each.client, each.sent_bytes) for each in told] == [(0, 0), (4, 0), (8, 0)]
        assert [each.reason for each in told][0::2] == ["it fails", "é" * 250]
        assert told[1].reason == "it reports samples = 1e+18, which must be a whole number from 1 to 5"
        for each in told:
            owns_error = each.client in failed and ranks.hosts(each.client)
            assert isinstance(each.error, ValueError) if owns_error else each.error is None


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_client_without_a_message_is_told_on_every_rank(world_size: int) -> None:
    """Two that fail and one that claims too many samples send nothing; all else arrives, in batches of every size. A reason
    is cut to 500 bytes of UTF-8."""
    on_ranks(world_size, _reject)


def _raise_alike(rank: int, world_size: int) -> None:
    ranks = _ranks(rank, world_size)

    def reject(rejection: Rejection) -> None:
        raise RoundError(rejection.reason)

    def outcomes() -> Iterator[Message | Rejection]:
        for client in filter(ranks.hosts, _COHORT):
            yield Rejection(client, "it fails") if client == 7 else _message(client)

    transport = Transport(ranks, 100)
    with pytest.raises(RoundError, match="it fails"):
        list(transport.gather(_COHORT, outcomes(), _bounds, reject))
    _check(list(transport.gather(_COHORT, _Maker(ranks).messages(), _bounds, _never)), _COHORT if rank == 0 else [])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_a_rejection_raises_ends_it_on_every_rank(world_size: int) -> None:
    """And the next cohort finds nothing on the wire."""
    on_ranks(world_size, _raise_alike)


def _speak_for_others(rank: int, world_size: int) -> None:
    ranks, gather = _ranks(rank, world_size), Ranks.gather

    def lying(self: Ranks, table: Tensor) -> Tensor:
        if rank == world_size - 1:
            others = [row for row, client in enumerate(_COHORT, start=1) if not self.hosts(client)]
            table[others] = 1e9  # failed, with a billion samples
        return gather(self, table)

    transport = Transport(ranks, 100)
    transport._batch = len(_COHORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranks, "gather", lying)
        taken = list(transport.gather(_COHORT, _Maker(ranks).messages(), _bounds, _never))
    _check(taken, _COHORT if rank == 0 else [])
    assert transport.reports == [_message(client).report for client in _COHORT]


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_rank_speaks_for_its_own_clients_alone(world_size: int) -> None:
    """What it says of clients on other ranks is not looked at."""
    on_ranks(world_size, _speak_for_others)
