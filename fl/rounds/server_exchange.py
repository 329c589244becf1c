"""The exchange of a round through payloads, point to point to rank 0."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from compression import Codec, Sender
from compression.codec import BUFFERS
from fl.algorithms.base import Algorithm
from fl.comm.codecs import Uplink
from fl.comm.message import COLUMNS, ClientReport, join_payloads, part_payloads
from fl.common.config import TrainOptions
from fl.common.errors import RoundError
from fl.common.ranks import Ranks
from fl.common.seeds import derive_seed
from fl.models.state import ModelState
from fl.output.layers import LayerCounts
from fl.server.aggregate import Aggregate, Aggregator
from fl.server.rules import make_aggregator
from fl.server.server import Server
from fl.training.schedule import Course
from fl.training.trainer import Update

from .exchange import Exchange
from .result import RoundOutcome

_WAITING_BYTES = 512_000_000
_PREFIX = "algorithm."


class ServerExchange(Exchange):
    """Payloads point to point to rank 0, which decodes and adds them up in cohort order.

    The sizes travel first, in one small all-reduce, when every rank has trained its clients: gloo starts a transfer only
    when the receiver asks for its exact size, so sending earlier would not overlap with training. A cohort is taken in
    batches, of one client a rank or of as many as 512 MB hold even if dense, so that waiting payloads stay bounded.
    """

    def __init__(
        self,
        ranks: Ranks,
        state: ModelState,
        server: Server | None,
        uplink: Uplink,
        *,
        downlink: str = "none",
        error_feedback: str = "residual",
        seed: int = 0,
        course: Course | None = None,
        part_mean: str = "holders",
        aggregate: str = "mean",
    ) -> None:
        super().__init__(ranks, state, server, downlink, seed=seed)
        self.course = course or Course(Algorithm(), TrainOptions(local_steps=1))
        self.algorithm = self.course.algorithm
        self.uplink = uplink
        self.part_mean = part_mean
        self.aggregate = aggregate
        self.error_feedback = error_feedback
        self.senders: dict[int, Sender] = {}
        dense = 4 * (state.parameters.numel() + state.buffers.numel())
        self._batch = max(ranks.world_size, _WAITING_BYTES // max(1, dense)) if ranks.world_size > 1 else 1
        self._batches: list[list[int]] = []
        self._mean: Aggregator | None = None
        self._aggregate: Aggregate | None = None

    def open(self, round_: int, cohort: Sequence[int]) -> None:
        """As in `Exchange.open`."""
        self._round = round_
        self._batches = [list(cohort[i : i + self._batch]) for i in range(0, len(cohort), self._batch)]
        for sender in self.senders.values():
            sender.forget()
        self.algorithm.forget()
        self._payloads: dict[int, Tensor] = {}
        self._own: dict[int, ClientReport] = {}
        self._sending: list[tuple[list[dist.Work], list[tuple[int, Tensor]]]] = []
        self._outcome = self._new_outcome()
        self._begin_mean()
        self._failure: Exception | None = None

    def _new_outcome(self) -> RoundOutcome:
        return RoundOutcome(layers=LayerCounts(self.state.layout) if self.count_layers else None)

    def _begin_mean(self) -> None:
        if self.server is None:
            return
        if self._mean is None:
            apart = self.masks is not None and not self.masks.alike
            damped = self.part_mean == "cohort"
            self._mean = make_aggregator(self.aggregate, self.state, apart=apart, damped=damped)
        self._mean.reset()

    def upload(self, update: Update) -> None:
        """As in `Exchange.upload`."""
        while update.client not in self._batches[0]:
            self._flush()
        sender = self._sender(update.client)
        sender.codec = self._codec(update.client)
        within = None if self.masks is None else self.masks.remembered(update.client)
        key = derive_seed(self.seed, "uplink", self._number(update.client), update.client)
        payload, sparse = sender.encode(update.values, self.state.layout, key, within=within)
        self.algorithm.sent(update.client, sparse)
        sender.codec = self.uplink.codec  # not that of a mask, which would be kept alive
        payload = join_payloads(payload, update.buffers)
        side = None if self.masks is None else self.masks.side(update.client)
        if side is not None:
            payload = torch.cat((side, payload))
        self._payloads[update.client] = payload
        self._own[update.client] = ClientReport(
            client=update.client,
            samples=update.samples,
            train_loss=update.train_loss,
            train_s=update.train_s,
            uplink_bytes=payload.numel(),
            kept=sparse.kept,
            side_bytes=0 if side is None else side.numel(),
            moved=update.moved,
        )

    def abort(self) -> None:
        """As in `Exchange.abort`."""
        if self._batches:
            self._flush(failed=True)

    def step(self) -> RoundOutcome:
        """As in `Exchange.step`."""
        while self._batches:
            self._flush()
        for works, _ in self._sending:
            for work in works:
                work.wait()
        self._sending = []
        self._payloads = {}
        self.serve(self._round, self._result, self._outcome, self._failure)
        if self.algorithm.tells:
            self._tell()
        for sender in self.senders.values():
            sender.keep()
        self.algorithm.keep()
        return self._outcome

    def _result(self) -> Aggregate:
        """On rank 0, all of the round's updates added up; what the server's optimizer takes is the algorithm's."""
        assert self._mean is not None
        self._aggregate = self._mean.result()
        reports = dict(enumerate(self._outcome.reports))
        weights = {at: self.course.weight(report.samples) for at, report in reports.items()}
        steps = {at: self.course.steps(report.samples) for at, report in reports.items()}
        self._aggregate.update = self.algorithm.mean(self._aggregate.update, weights, steps)
        return self._aggregate

    def _tell(self) -> None:
        """What every client needs besides the model, from rank 0 to all ranks; exact."""
        values = self.algorithm.broadcast() if self.server is not None else None
        nothing = torch.empty(0, dtype=torch.uint8, device=self.ranks.device)
        payload = self.ranks.share(lambda: nothing if values is None else BUFFERS.encode(values)[0])
        if payload.numel():
            self.algorithm.apply_broadcast(BUFFERS.decode(payload, self.state.layout.total).values)
        self._outcome.told_bytes = payload.numel()

    def _flush(self, *, failed: bool = False) -> None:
        """Send the payloads of the first batch of clients that is still open, and add them up on rank 0."""
        batch = self._batches.pop(0)
        table = torch.zeros(1 + len(batch), COLUMNS, dtype=torch.float64)
        table[0, 0] = failed
        for row, client in enumerate(batch, start=1):
            if client in self._own:
                table[row] = torch.tensor(self._own[client].row(), dtype=torch.float64)
        self.ranks.sum(table)
        if float(table[0, 0]):
            raise RoundError("a client failed in this round; its rank says why")
        reports = [ClientReport.of_row(client, row) for client, row in zip(batch, table[1:].tolist(), strict=True)]
        self._outcome.reports += reports
        if self._mean is None:
            self._send(batch)
        else:
            self._receive(reports, self._mean)

    def _send(self, batch: list[int]) -> None:
        own = [(tag, self._payloads.pop(client)) for tag, client in enumerate(batch) if client in self._payloads]
        held = [(tag, payload.to(self.ranks.wire_device)) for tag, payload in own]
        if held:
            operations = [dist.P2POp(dist.isend, data, 0, tag=tag) for tag, data in held]
            # With NCCL a payload's memory must stay until its Work is done.
            self._sending.append((dist.batch_isend_irecv(operations), held))

    def _receive(self, reports: list[ClientReport], mean: Aggregator) -> None:
        remote = [(tag, report) for tag, report in enumerate(reports) if report.client not in self._payloads]
        arriving = {
            report.client: torch.empty(report.uplink_bytes, dtype=torch.uint8, device=self.ranks.wire_device)
            for _, report in remote
        }
        operations = [
            dist.P2POp(dist.irecv, arriving[report.client], self.ranks.owner(report.client), tag=tag)
            for tag, report in remote
        ]
        works = dist.batch_isend_irecv(operations) if operations else []
        # NCCL answers with one Work for the whole batch, gloo with one for each operation.
        waits = dict(zip(arriving, works if len(works) == len(arriving) else works * len(arriving), strict=True))
        for report in reports:
            if report.client in waits:
                waits[report.client].wait()
                payload = arriving.pop(report.client).to(self.ranks.device)
            else:
                payload = self._payloads.pop(report.client)
            if self._failure is None:
                try:
                    self._add(report, payload, mean)
                except Exception as error:
                    # The others are still sending: they hear of it when they wait for the server's answer.
                    self._failure = error

    def _number(self, client: int) -> int:
        """What seeds the random choices of a client's codec: its round."""
        return self._round

    def _add(self, report: ClientReport, payload: Tensor, mean: Aggregator) -> None:
        weight = self.course.weight(report.samples)
        if report.side_bytes and self.masks is not None:
            self.masks.take_side(report.client, payload[: report.side_bytes], weight)
        part = self.part(report.client)
        update, buffers = part_payloads(payload[report.side_bytes :], self.state, self._codec(report.client), part)
        self._outcome.add(update, part)
        self.algorithm.receive(report.client, update, self.course.steps(report.samples), self.course.lr(self._round))
        mean.add(update, buffers, weight, part)

    @property
    def mean_update(self) -> Tensor | None:
        """As in `Exchange.mean_update`."""
        return None if self._aggregate is None else self._aggregate.update

    def client_state(self, client: int) -> dict[str, Tensor]:
        """As in `Exchange.client_state`: what its sender remembers, by parameter name, and its side of the algorithm."""
        own = {f"{_PREFIX}{name}": value for name, value in self.algorithm.client_state(client).items()}
        return {**self._sender(client).state_dict(), **own}

    def load_client_state(self, client: int, state: dict[str, Tensor]) -> None:
        """As in `Exchange.load_client_state`."""
        here = {name: value.to(self.ranks.device) for name, value in state.items()}
        own = {name.removeprefix(_PREFIX): here.pop(name) for name in state if name.startswith(_PREFIX)}
        self.algorithm.load_client_state(client, own)
        self._sender(client).load_state_dict(here)

    @property
    def has_client_state(self) -> bool:
        """As in `Exchange.has_client_state`."""
        return Sender(self.uplink.codec, self.error_feedback).has_state or self.algorithm.has_client_state

    def _codec(self, client: int) -> Codec:
        """What this client's payload of this round is encoded and decoded by."""
        codec = self.uplink.at(self._round)
        if self.shares is not None and codec.density is not None:
            codec = codec.with_density(codec.density * self.shares[client])
        if self.after is not None:
            return self.after.codec(codec, self._round, client, self.seed)
        return self.part(client).codec(codec)

    def _sender(self, client: int) -> Sender:
        if client not in self.senders:
            self.senders[client] = Sender(self.uplink.codec, self.error_feedback)
        return self.senders[client]
