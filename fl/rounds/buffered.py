"""Rounds without waiting: the server steps when enough updates have arrived, whatever versions they started from.

buffered:K    a step for every K arrivals (FedBuff, Nguyen et al. 2022, Algorithm 1)
async:ALPHA   a step for every arrival, which mixes the client's model into the global one: x <- (1 - a) x + a x_client,
              a = ALPHA times the weight of its staleness (FedAsync, Xie, Koyejo and Gupta 2019, Algorithm 1)

Time is virtual: every rank runs the same simulator and knows who arrives when. A client's result depends only on the
version that it started from, so it is trained at the latest moment before its payload's size is needed or the version
ends, with all others that wait for the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from compression.masks.inside import Inside
from compression.masks.payload import decode_mask, encode_mask
from fl.clock.adaptive import Time
from fl.clock.clock import AtWork, Job, columns
from fl.clock.simulator import Arrival
from fl.comm.ledger import Ledger
from fl.comm.message import ClientReport
from fl.models.submodel import Part
from fl.training.cost import samples_trained
from fl.training.worker import Federation

from .buffered_exchange import BufferedExchange, Taken, Waiting
from .modes import parse_mode
from .result import RoundOutcome, Wasted
from .sampling import Sampler
from .staleness import weight
from .sync import CAPABILITY, FederatedRounds


@dataclass(frozen=True)
class Landed:
    """An update that has arrived."""

    arrival: Arrival
    work: Job
    report: ClientReport


class BufferedRounds(FederatedRounds):
    """A round is a step of the server. A round that fails leaves the checkpoint as it was, not this object."""

    def __init__(self, federation: Federation, sampler: Sampler) -> None:
        super().__init__(federation, sampler)
        config = federation.config
        assert isinstance(self.exchange, BufferedExchange)
        assert config.clients is not None
        assert config.clients_per_round is not None
        self.buffered: BufferedExchange = self.exchange
        mode = parse_mode(config.mode)
        self._models = mode.name == "async"
        self._alpha = mode.alpha
        self._size = mode.buffer_size
        self._latest = mode.latest
        self._keeps = True  # whether what was not sent is a client's own as soon as it has sent the rest
        self._concurrency = config.clients_per_round
        self.at_work = AtWork(config, self._upload_bytes)
        self._ledger = Ledger(parameters=federation.state.parameters.numel(), buffers=federation.state.buffers.numel())
        self._costs = federation.make_costs()
        self._version = 0
        self._untrained: set[int] = set()
        self._reports: dict[int, ClientReport] = {}  # of clients on their way that are trained
        self._versions: dict[int, Tensor] = {}  # models that somebody on its way started from, on rank 0

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `Rounds.run`; who takes part is decided by time, not by `cohort`."""
        self._version = round_
        landed: list[Landed] = []
        self._trained: set[int] = set()
        self._wasted: list[Wasted] = []
        self.late = []
        self._start_free(landed)
        while len(landed) < self._size:
            each = self._next()
            if each is not None:
                landed = self._with(landed, each)
            if len(landed) < self._size:
                self._start_free(landed)
        self._train()  # whoever else has started from this version
        outcome = self._step(round_, landed)
        outcome.wasted = self._wasted
        outcome.trained = sorted(self._trained)
        return outcome

    def _with(self, landed: list[Landed], new: Landed) -> list[Landed]:
        """The buffer with a further arrival; with `buffered:K,latest` in place of what the client sent before."""
        client = new.arrival.client
        for old in landed if self._latest else []:
            if old.arrival.client == client:
                self.buffered.waiting.pop((client, old.arrival.number), None)
                self._wasted.append(Wasted(client, old.work.download_bytes, old.report.uplink_bytes))
                return [*(each for each in landed if each is not old), new]
        return [*landed, new]

    def _step(self, round_: int, landed: Sequence[Landed]) -> RoundOutcome:
        text = self.federation.config.staleness
        ages = [round_ - each.work.begun for each in landed]
        weights = [weight(text, age) for age in ages]
        taken = [
            Taken(each.arrival.client, each.arrival.number, own, self._alpha * own)
            for each, own in zip(landed, weights, strict=True)
        ]
        begun_from = None
        if self._models and self.federation.ranks.is_server:
            begun_from = [self._versions[each.work.begun] for each in landed]
        outcome = self.buffered.take(round_, taken, begun_from)
        outcome.reports = [each.report for each in landed]
        outcome.begin_bytes = [each.work.download_bytes for each in landed]
        outcome.times = [{**columns(each.arrival), "staleness": age} for each, age in zip(landed, ages, strict=True)]
        outcome.shares = [each.work.shares for each in landed]
        outcome.flops = [each.work.flops for each in landed]
        outcome.memory_bytes = max(each.work.memory_bytes for each in landed)
        if self.masks is not None:
            outcome.held = sum(each.work.held for each in landed) / len(landed)
            self.masks.close(self.buffered.mean_update)
        outcome.virtual_time_s = self.at_work.now
        versions = {work.begun for work in self.at_work.works.values()}
        self._versions = {v: model for v, model in self._versions.items() if v in versions}
        self._ledger.step(outcome.change_bytes, outcome.buffers_bytes)
        self.sampler.observe(outcome.reports)
        return outcome

    def _next(self) -> Landed | None:
        """The next arrival, which frees its place; None if the server gave up on clients, whose places are free too."""
        arrival = self.at_work.next()
        if arrival is None:
            self._wasted += self._give_up(self.at_work.overdue())
            return None
        return self._land(arrival)

    @property
    def ledger(self) -> Ledger:
        """As in `Rounds.ledger`."""
        return self._ledger

    def unfinished(self) -> list[Wasted]:
        """As in `Rounds.unfinished`: clients on their way, those that are lost too."""
        works = sorted(self.at_work.works.items())
        return [self._in_vain(client, work) for client, work in works if self._has_begun(work)]

    def _has_begun(self, work: Job) -> bool:
        """Otherwise the client waits until it is up."""
        return work.begun_s <= self.at_work.now

    def _in_vain(self, client: int, work: Job) -> Wasted:
        """What a client on its way has cost so far: each message as a whole as soon as it has begun."""
        sent = self._reports[client].uplink_bytes if self.at_work.uploads(client) else 0
        return Wasted(client, work.download_bytes, sent)

    def _give_up(self, late: Iterable[int]) -> list[Wasted]:
        """The server no longer waits for these. What they have begun to download and to send is charged."""
        wasted = []
        for client in sorted(late):
            work = self.at_work.works[client]
            if self._has_begun(work):
                wasted.append(self._in_vain(client, work))
                if CAPABILITY in work.shares:
                    self.late.append(Time(client, self.at_work.now - work.begun_s, work.shares[CAPABILITY]))
            else:
                self._ledger.restore(client, work.noted)
            self._untrained.discard(client)
            self.buffered.waiting.pop((client, self.at_work.number(client)), None)
            self._reports.pop(client, None)
            self.at_work.give_up(client)
        return wasted

    def _land(self, arrival: Arrival) -> Landed:
        client = arrival.client
        return Landed(arrival, self.at_work.works.pop(client), self._reports.pop(client))

    def _start_free(self, landed: Sequence[Landed]) -> None:
        """Fill the free places with clients drawn from those that are not on their way; the draw is that of the start.

        With `buffered:K,latest`, those that are not in the buffer come first.
        """
        config = self.federation.config
        assert config.clients is not None
        at_work, sampler = self.at_work, self.sampler
        while not at_work.waits and len(at_work.works) < self._concurrency:
            free = [client for client in range(config.clients) if client not in at_work.works]
            if self._latest:
                taken = {each.arrival.client for each in landed}
                free = [client for client in free if client not in taken] or free
            drawn = sampler.draw(free, 1, self._version, now=at_work.now, purpose="start", number=at_work.starts)
            if not drawn:
                break  # nobody is up any more
            self._start(*drawn)

    def _start(self, client: int) -> None:
        federation, now = self.federation, self.at_work.now
        self._untrained.add(client)
        model, holding = federation.engine.model, None
        if self.masks is not None:
            self.masks.begin(self._version, sorted(self._untrained))
            sub = self.masks.part(client).sub
            model = model if sub is None else sub.model
            holding = (self.masks.holdings([client]) or {}).get(client)
        [samples] = samples_trained(federation.config, [len(federation.parts[client])])
        [flops], memory = self._costs.each([model], [samples]), self._costs.of(model)
        noted, download = self._ledger.noted(client), self._ledger.start(client, holding)
        held = federation.state.layout.total if holding is None else holding.held
        starts = now + self.sampler.wait_s(client, now)
        memory_bytes = 0 if memory is None else memory.memory_bytes
        work = Job(self._version, starts, download, held, int(flops), memory_bytes, self.shares(client), noted)
        if not self.at_work.start(client, work):
            # It goes away with what it downloaded: it is not trained, and must download everything if it comes back.
            self._untrained.remove(client)
            self._ledger.forget(client)
        elif self._models and federation.ranks.is_server and self._version not in self._versions:
            self._versions[self._version] = federation.state.parameters.clone()

    def _upload_bytes(self, client: int) -> int:
        """The simulator needs to know how much this client sends."""
        if client in self._untrained:
            self._train()
        return self._reports[client].uplink_bytes

    def _train(self) -> None:
        """Train all that have started from the present version, each on its rank. Collective."""
        if not self._untrained:
            return
        numbers = {client: self.at_work.number(client) for client in sorted(self._untrained)}
        self.buffered.begin(self._version, numbers)
        self._train_all(numbers, self._version)
        for report in self.buffered.collect(keep=self._keeps):
            self._reports[report.client] = report
        self._trained |= self._untrained
        self._untrained = set()

    def server_state(self) -> dict[str, Tensor]:
        """As in `Rounds.server_state`, with the payloads on their way and the versions that somebody started from."""
        state = super().server_state()
        waiting = self.buffered.waiting.items()
        state.update({f"waiting.{client}.{number}": each.payload for (client, number), each in waiting})
        for (client, number), each in waiting:
            if each.part.inside is not None:
                state[f"inside.{client}.{number}"] = encode_mask(each.part.inside.mask)
        state.update({f"version.{version}": model for version, model in self._versions.items()})
        return state

    def load_server_state(self, state: dict[str, Tensor]) -> None:
        """As in `Rounds.load_server_state`; `load_plan` comes before."""
        own = {name: state.pop(name) for name in list(state) if name.startswith(("waiting.", "inside.", "version."))}
        if self.federation.ranks.is_server:
            device = self.federation.ranks.device
            for name, tensor in own.items():
                kind, *words = name.split(".")
                numbers = [int(word) for word in words]
                if kind == "version":
                    self._versions[numbers[0]] = tensor.to(device)
                elif kind == "waiting":
                    inside = own.get(f"inside.{words[0]}.{words[1]}")
                    part = self._part(None if inside is None else inside.to(device))
                    waiting = Waiting(self._reports[numbers[0]], tensor.to(device), part)
                    self.buffered.waiting[numbers[0], numbers[1]] = waiting
        super().load_server_state(state)

    def _part(self, mask: Tensor | None) -> Part:
        """What a payload on its way is about, from the mask in a checkpoint."""
        common = self.buffered.common.buffers
        if mask is None:
            return Part(buffers=common)
        layout = self.federation.state.layout
        return Part(Inside(decode_mask(mask, layout.total), layout), common)

    def plan(self) -> dict[str, Any]:
        """As in `Rounds.plan`: who is on the way, and the ledger; the same on every rank."""
        return {
            **super().plan(),
            "at_work": self.at_work.state_dict(),
            "ledger": self._ledger.state_dict(),
            "reports": [[client, *report.row()] for client, report in sorted(self._reports.items())],
        }

    def load_plan(self, plan: dict[str, Any]) -> None:
        """As in `Rounds.load_plan`."""
        super().load_plan(plan)
        self.at_work.load_state_dict(plan["at_work"])
        self._ledger.load_state_dict(plan["ledger"])
        self._reports = {client: ClientReport.of_row(client, row) for client, *row in plan["reports"]}
