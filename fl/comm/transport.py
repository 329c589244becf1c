"""Clients' messages to rank 0, and its answer to every rank, each at its exact size."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from fl.common.errors import RoundError
from fl.common.ranks import Ranks

from .message import COLUMNS, PUBLISHED, SECTIONS, ClientReport, Message, join, split

_WAITING_BYTES = 512_000_000


class Transport:
    """Payloads point to point to rank 0, in cohort order whatever the ranks.

    Sizes travel first, in one small all-reduce, when every rank has trained its clients: gloo starts a transfer only
    when the receiver asks for its exact size, so sending earlier would not overlap with training. A cohort is taken in
    batches, of one client a rank or of as many as 512 MB hold even if dense, so that waiting payloads stay bounded.
    """

    def __init__(self, ranks: Ranks, coordinates: int) -> None:
        """`coordinates`: of the model, parameters and buffers."""
        self.ranks = ranks
        many = max(ranks.world_size, _WAITING_BYTES // max(1, 4 * coordinates))
        self._batch = many if ranks.world_size > 1 else 1
        self.reports: list[ClientReport] = []  # of the last cohort, the same on every rank

    def gather(self, clients: Sequence[int], messages: Iterator[Message]) -> Iterator[Message]:
        """Yield the message of each of `clients` in their order, on rank 0 alone. Collective.

        `messages`: those of the clients that this rank hosts, in the same order, made (that is, trained) as they are asked
        for. If that fails on any rank, every rank raises: the error itself, or RoundError. The caller must not raise
        between messages: the other ranks would wait for ever.
        """
        self.reports = []
        sending: list[tuple[list[dist.Work], list[Tensor]]] = []
        for start in range(0, len(clients), self._batch):
            batch = clients[start : start + self._batch]
            own: dict[int, Message] = {}
            failure: Exception | None = None
            try:
                for client in filter(self.ranks.hosts, batch):
                    own[client] = next(messages)
            except Exception as error:
                failure = error
            reports = self._tell_sizes(batch, own, failure)
            self.reports += reports
            if self.ranks.is_server:
                yield from self._receive(reports, own)
            elif own:
                sending.append(self._send(batch, own))
        for works, _ in sending:
            for work in works:
                work.wait()

    def _tell_sizes(
        self, batch: Sequence[int], own: Mapping[int, Message], failure: Exception | None
    ) -> list[ClientReport]:
        table = torch.zeros(1 + len(batch), COLUMNS, dtype=torch.float64)
        table[0, 0] = failure is not None
        for row, client in enumerate(batch, start=1):
            if client in own:
                table[row] = torch.tensor(own[client].report.row(), dtype=torch.float64)
        self.ranks.sum(table)
        if failure is not None:
            raise failure
        if float(table[0, 0]):
            raise RoundError("a client failed in this round; its rank says why")
        return [ClientReport.of_row(client, row) for client, row in zip(batch, table[1:].tolist(), strict=True)]

    def _send(self, batch: Sequence[int], own: Mapping[int, Message]) -> tuple[list[dist.Work], list[Tensor]]:
        payloads = {
            tag: join(own[client].sections, SECTIONS).to(self.ranks.wire_device)
            for tag, client in enumerate(batch)
            if client in own
        }
        operations = [dist.P2POp(dist.isend, payload, 0, tag=tag) for tag, payload in payloads.items()]
        # With NCCL a payload's memory must stay until its Work is done.
        return dist.batch_isend_irecv(operations), list(payloads.values())

    def _receive(self, reports: Sequence[ClientReport], own: dict[int, Message]) -> Iterator[Message]:
        arriving = {
            tag: torch.empty(report.uplink_bytes, dtype=torch.uint8, device=self.ranks.wire_device)
            for tag, report in enumerate(reports)
            if report.client not in own
        }
        operations = [
            dist.P2POp(dist.irecv, payload, self.ranks.owner(reports[tag].client), tag=tag)
            for tag, payload in arriving.items()
        ]
        works = dist.batch_isend_irecv(operations) if operations else []
        # NCCL answers with one Work for the whole batch, gloo with one for each operation.
        waits = dict(zip(arriving, works if len(works) == len(arriving) else works * len(arriving), strict=True))
        for tag, report in enumerate(reports):
            if tag in waits:
                waits[tag].wait()
                payload = arriving.pop(tag).to(self.ranks.device)
                yield Message(report, split(payload, report.sizes, SECTIONS))
            else:
                yield own.pop(report.client)

    def share(self, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """The sections that `make` returns on rank 0, on every rank; if it raises there, every rank raises. Collective."""
        if self.ranks.world_size == 1:
            return make()
        header = 8 * len(PUBLISHED)  # not charged, as no sizes are

        def packed() -> Tensor:
            sections = make()
            sizes = torch.tensor([sections[name].numel() if name in sections else 0 for name in PUBLISHED])
            start = sizes.view(torch.uint8).to(self.ranks.device)
            return torch.cat([start, *(sections[name] for name in PUBLISHED if name in sections)])

        payload = self.ranks.share(packed)
        sizes = payload[:header].cpu().view(torch.int64).tolist()
        return split(payload[header:], dict(zip(PUBLISHED, sizes, strict=True)), PUBLISHED)
