"""Payloads that wait on rank 0 until their virtual time has come."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fl.comm.message import ClientReport, part_payloads
from fl.models.submodel import WHOLE, Part
from fl.server.aggregate import Aggregator

from .result import RoundOutcome
from .server_exchange import ServerExchange


@dataclass(frozen=True)
class Taken:
    """An update that the server takes: whose, of which of its starts, and how much it counts for its age, in [0, 1].

    `buffers_weight`: how much its buffers count beside the global model's, in [0, 1].
    """

    client: int
    number: int
    weight: float
    buffers_weight: float


@dataclass(frozen=True)
class Waiting:
    """A payload on its way, and the part of the model that it is about."""

    report: ClientReport
    payload: Tensor
    part: Part = WHOLE


class BufferedExchange(ServerExchange):
    """As `ServerExchange`, but updates are made in batches and taken one by one, in an order of the caller's.

    `begin`, then `upload` for each client of the batch, then `collect`; later `take` the updates of a step. What a client
    did not send is its own as soon as its payload is collected: it may start again before the server takes it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: dict[tuple[int, int], Waiting] = {}
        self._numbers: dict[int, int] = {}

    def begin(self, version: int, numbers: dict[int, int]) -> None:
        """Clients start from `version` of the model; `numbers`: client -> how many starts it had before, which seeds it."""
        self._numbers = numbers
        self.open(version, sorted(numbers))

    def collect(self, *, keep: bool = True) -> list[ClientReport]:
        """The batch is trained: its payloads wait on rank 0 from now on. The same reports on every rank.

        Without `keep`, `settle` decides for each client whether what it did not send is its own, or the whole update lost.
        """
        while self._batches:
            self._flush()
        for works, _ in self._sending:
            for work in works:
                work.wait()
        self._sending = []
        if self._failure is not None:
            raise self._failure
        if keep:
            for sender in self.senders.values():
                sender.keep()
        return self._outcome.reports

    def settle(self, client: int, *, arrived: bool) -> None:
        """Whether the update of a client has arrived; on its own rank."""
        if client in self.senders:
            self.senders[client].keep() if arrived else self.senders[client].forget()

    @property
    def waiting(self) -> dict[tuple[int, int], Waiting]:
        """On rank 0: payloads that were collected and not taken, by client and number of the start."""
        return self._waiting

    def take(self, round_: int, taken: Sequence[Taken], begun_from: Sequence[Tensor] | None = None) -> RoundOutcome:
        """Step on these updates: the sum of weight * samples * update over the sum of samples.

        Buffers move as the model does: b becomes the sum of samples * (w b_client + (1 - w) b) over the sum of samples,
        w = `buffers_weight`.

        `begun_from`, on rank 0: the model [n] that each of them started from; its *model*, not its update, then counts
        (FedAsync): what is added is the distance of the global model to it.
        """
        self._round, self._outcome, failure = round_, self._new_outcome(), None
        self._begin_mean()
        if self._mean is not None:
            try:
                for at, each in enumerate(taken):
                    self._take(each, self._mean, None if begun_from is None else begun_from[at])
            except Exception as error:
                failure = error
        self.serve(round_, self._result, self._outcome, failure)
        return self._outcome

    def _take(self, taken: Taken, mean: Aggregator, begun_from: Tensor | None) -> None:
        waited = self.waiting.pop((taken.client, taken.number))
        part = waited.part
        update, buffers = part_payloads(waited.payload, self.state, part.codec(self.uplink.codec), part)
        self._outcome.reports.append(waited.report)
        self._outcome.add(update, part)
        weight = self.course.weight(waited.report.samples)
        if begun_from is not None:
            moved = torch.sub(self.state.parameters, begun_from)
            mean.add_distance(moved, taken.weight * weight)
        mean.add(update, buffers, weight, part, scale=taken.weight, buffer_scale=taken.buffers_weight)

    def _add(self, report: ClientReport, payload: Tensor, mean: Aggregator) -> None:
        number = self._numbers[report.client]
        self.waiting[report.client, number] = Waiting(report, payload.clone(), self.part(report.client))

    def _number(self, client: int) -> int:
        return self._numbers[client]
