"""Clients' messages to rank 0, and its answer to every rank, each at its exact size."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress

import torch
import torch.distributed as dist
from torch import Tensor

from compression import PayloadError
from compression.phases import phase
from fl.common.errors import PeerError, RoundError
from fl.common.progress import work
from fl.common.ranks import Ranks

from .message import (
    COLUMNS,
    PUBLISHED,
    SECTIONS,
    Bounds,
    ClientReport,
    Message,
    Rejection,
    read_report,
)

_WAITING_BYTES = 512_000_000
_REASON_BYTES = 500


class Transport:
    """Payloads point to point to rank 0, in cohort order whatever the ranks.

    Reports travel first, in one small all-gather in which a rank speaks for its own clients alone, when every rank has
    trained its clients: gloo starts a transfer only when the receiver asks for its exact size, so sending earlier would
    not overlap with training. A cohort is taken in batches, of one client a rank or of as many as 512 MB hold even if
    dense, so that waiting payloads stay bounded.
    """

    def __init__(self, ranks: Ranks, coordinates: int) -> None:
        """`coordinates`: of the model, parameters and buffers."""
        self.ranks = ranks
        many = max(ranks.world_size, _WAITING_BYTES // max(1, 4 * coordinates))
        self._batch = many if ranks.world_size > 1 else 1
        self.reports: list[ClientReport] = []
        """Those of the last cohort whose messages were sent, in its order; the same on every rank."""
        self.made_s = 0.0
        """When the last message of the last cohort had been made on every rank, by `time.perf_counter`."""

    def is_one_batch(self, clients: Sequence[int]) -> bool:
        """Whether all of these clients are trained before the first message travels."""
        return len(clients) <= self._batch

    def gather(
        self,
        clients: Sequence[int],
        outcomes: Iterator[Message | Rejection | None],
        bounds: Callable[[int], Bounds],
        reject: Callable[[Rejection], None],
        made: Callable[[], None] = lambda: None,
    ) -> Iterator[Message]:
        """Yield the message of each of `clients` that has one, in their order, on the ranks that serve. Collective.

        `outcomes`: those of the clients that this rank trains, in the same order, made (that is, trained) as they are asked
        for; None where another rank hosts the client. `made` is called when this rank has made its last one. If either
        raises on any rank, every rank raises: the error itself, or RoundError. `reject` is told on every rank of each client
        without a message, and of each whose report exceeds its `bounds`, whose payload is not sent; it may raise, on every
        rank alike. The caller must not raise between messages: the other ranks would wait for ever.
        """
        self.reports = []
        sending: list[tuple[list[dist.Work], list[Tensor]]] = []
        for start in range(0, len(clients), self._batch):
            batch = clients[start : start + self._batch]
            own: dict[int, Message | Rejection] = {}
            failure: Exception | None = None
            try:
                for client in filter(self.ranks.trains, batch):
                    outcome = next(outcomes)
                    if outcome is not None:
                        own[client] = outcome
                if start + self._batch >= len(clients):
                    made()
            except Exception as error:
                failure = error
            told = self._exchange(batch, own, failure, bounds)
            self.made_s = time.perf_counter()
            for rejection in told:
                if isinstance(rejection, Rejection):
                    reject(rejection)
            reports = [report for report in told if isinstance(report, ClientReport)]
            self.reports += reports
            believed = {report.client for report in reports}
            messages = {
                client: each for client, each in own.items() if isinstance(each, Message) and client in believed
            }
            if not self.ranks.is_server and messages:
                sending.append(self._send(reports, messages))
            if self.ranks.is_server:
                yield from map(self._hand_on, self._receive(reports, messages))
            elif self.ranks.serves:
                yield from (self._hand_on(Message(report)) for report in reports)
        with phase("transfer"):
            for works, _ in sending:
                for each in works:
                    each.wait()

    def _exchange(
        self,
        batch: Sequence[int],
        own: Mapping[int, Message | Rejection],
        failure: Exception | None,
        bounds: Callable[[int], Bounds],
    ) -> list[ClientReport | Rejection]:
        """The report of each client of a batch, or why there is none; the same on every rank, but for the errors."""
        table = torch.zeros(1 + len(batch), 1 + COLUMNS, dtype=torch.float64)
        table[0, 0] = failure is not None
        for row, client in enumerate(batch, start=1):
            outcome = own.get(client)
            table[row, 0] = isinstance(outcome, Rejection)
            if isinstance(outcome, Message):
                table[row, 1:] = torch.tensor(outcome.report.row(), dtype=torch.float64)
        tables = self.ranks.gather(table)
        if failure is not None:
            raise failure
        if tables[:, 0, 0].any():
            raise RoundError("a client failed in this round; its rank says why")
        rows = {client: tables[self.ranks.owner(client), row] for row, client in enumerate(batch, start=1)}
        rejected = [client for client, row in rows.items() if row[0]]
        told: dict[int, ClientReport | Rejection] = dict(self._tell_reasons(rejected, own))
        for client in rows.keys() - told.keys():
            try:
                told[client] = read_report(client, rows[client][1:].tolist(), bounds(client))
            except PayloadError as error:
                told[client] = Rejection(client, str(error))
        return [told[client] for client in batch]

    def _tell_reasons(
        self, rejected: Sequence[int], own: Mapping[int, Message | Rejection]
    ) -> Iterator[tuple[int, Rejection]]:
        """Why the `rejected` clients of all ranks have no message, on every rank."""
        if not rejected:
            return
        texts = torch.zeros(len(rejected), _REASON_BYTES, dtype=torch.uint8)
        for text, client in zip(texts, rejected, strict=True):
            outcome = own.get(client)
            if isinstance(outcome, Rejection):
                reason = outcome.reason.encode(errors="backslashreplace")[:_REASON_BYTES]
                text[: len(reason)] = torch.frombuffer(bytearray(reason), dtype=torch.uint8) if reason else 0
        gathered = self.ranks.gather(texts)
        for row, client in enumerate(rejected):
            reason = gathered[self.ranks.owner(client), row].numpy().tobytes().rstrip(b"\0")
            outcome = own.get(client)
            error = outcome.error if isinstance(outcome, Rejection) else None
            yield client, Rejection(client, reason.decode(errors="replace"), error=error)

    @phase("transfer")
    def _send(
        self, reports: Sequence[ClientReport], own: Mapping[int, Message]
    ) -> tuple[list[dist.Work], list[Tensor]]:
        payloads = {
            tag: own[client].sections[name].to(self.ranks.wire_device)
            for tag, (client, name, _) in enumerate(_sections(reports))
            if client in own
        }
        operations = [dist.P2POp(dist.isend, payload, 0, tag=tag) for tag, payload in payloads.items()]
        works = dist.batch_isend_irecv(operations) if operations else []
        return works, list(payloads.values())  # with NCCL a payload's memory must stay until its Work is done

    def _receive(self, reports: Sequence[ClientReport], own: dict[int, Message]) -> Iterator[Message]:
        arriving: dict[int, dict[str, Tensor]] = {}
        operations = []
        for tag, (client, name, size) in enumerate(_sections(reports)):
            if client not in own:
                payload = torch.empty(size, dtype=torch.uint8, device=self.ranks.wire_device)
                arriving.setdefault(client, {})[name] = payload
                operations.append(dist.P2POp(dist.irecv, payload, self.ranks.owner(client), tag=tag))
        works = dist.batch_isend_irecv(operations) if operations else []
        # NCCL answers with one Work for the whole batch, gloo with one for each operation.
        waits = iter(works if len(works) == len(operations) else works * len(operations))
        for report in reports:
            work.steps += 1
            if report.client in own:
                yield own.pop(report.client)
                continue
            sections = arriving.pop(report.client, {})
            with phase("transfer"):
                for name in sections:
                    next(waits).wait()
                    sections[name] = sections[name].to(self.ranks.device)
            yield Message(report, sections)

    def _hand_on(self, message: Message) -> Message:
        """The message of rank 0 on all ranks that share its work; collective among these."""
        shards = self.ranks.shards
        if shards is None:
            return message
        names = [name for name in SECTIONS if message.report.sizes.get(name)]
        return Message(message.report, {name: shards.broadcast(message.sections.get(name)) for name in names})

    def share(self, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The sections that `make` returns on rank 0, on every rank; if it raises there, every rank raises. Collective.

        The other ranks that serve take part in `make`, which raises on all of them or on none.
        """
        if self.ranks.world_size == 1:
            return make()
        made: dict[str, Tensor] = {}
        if self.ranks.serves and not self.ranks.is_server:
            with contextlib.suppress(PeerError):  # rank 0 says so below
                make()

        def names() -> Tensor:
            made.update(make())
            return torch.tensor([name in made for name in PUBLISHED], dtype=torch.uint8, device=self.ranks.device)

        present = compress(PUBLISHED, self.ranks.share(names).tolist())
        return {name: self.ranks.broadcast(made.get(name)) for name in present}


def _sections(reports: Sequence[ClientReport]) -> Iterator[tuple[int, str, int]]:
    """Client, name and bytes of every section, in the order in which they travel. Each travels by itself: to join them
    would copy them."""
    return ((report.client, name, size) for report in reports for name in SECTIONS if (size := report.sizes.get(name)))
