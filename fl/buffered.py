"""Rounds without waiting: the server steps when enough updates have arrived, whatever versions they started from.

buffered:K    a step for every K arrivals (FedBuff, Nguyen et al. 2022, Algorithm 1)
async:ALPHA   a step for every arrival, which mixes the client's model into the global one: x <- (1 - a) x + a x_client,
              a = ALPHA times the weight of its staleness (FedAsync, Xie, Koyejo and Gupta 2019, Algorithm 1)

Time is virtual: every rank runs the same simulator and knows who arrives when. A client's result depends only on the
version that it started from, so it is trained at the latest moment before its payload's size is needed or the version
ends, with all others that wait for the same.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from compression.pruning.inside import Inside
from compression.pruning.mask_wire import decode_mask, encode_mask
from compression.spec import parse_stage

from .buffered_exchange import BufferedExchange, Taken, Waiting
from .clock.profiles import profiles
from .clock.rounds import columns, make_link
from .clock.simulator import Arrival, Simulator
from .clock.staleness import weight
from .cost import Costs, samples_trained
from .engine.precision import autocast_dtype
from .errors import RoundError
from .federation import Federation
from .ledger import Ledger
from .outcome import ClientReport, RoundOutcome, Wasted
from .pruning.part import Part
from .rounds import FederatedRounds
from .seeds import numpy_generator


class Work(NamedTuple):
    """A client at work: the version that it started from, when, what it downloaded, the coordinates it holds, the cost."""

    begun: int
    begun_s: float
    download_bytes: int
    held: int
    flops: int
    memory_bytes: int
    shares: dict[str, float]  # columns of clients.csv


@dataclass(frozen=True)
class Landed:
    """An update that has arrived."""

    arrival: Arrival
    work: Work
    report: ClientReport


class BufferedRounds(FederatedRounds):
    """A round is a step of the server. A round that fails leaves the checkpoint as it was, not this object."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        config = federation.config
        assert isinstance(self.exchange, BufferedExchange)
        assert config.clients is not None
        assert config.clients_per_round is not None
        self.buffered: BufferedExchange = self.exchange
        mode = parse_stage(config.mode)
        self._models = mode.name == "async"
        self._size = int(mode.args[0]) if mode.name == "buffered" else 1
        self._latest = config.buffer == "latest"
        self._timeout = config.timeout or math.inf
        self._keeps = True  # whether what was not sent is a client's own as soon as it has sent the rest
        self._concurrency = config.clients_per_round
        self._profiles = profiles(config.profiles, config.clients, config.seed)
        limits = {"up_limit": config.server_up_limit or None, "down_limit": config.server_down_limit or None}
        self._simulator = Simulator(make_link(self._profiles, config.seed), self._upload_bytes, **limits)
        self.ledger = Ledger(parameters=federation.state.parameters.numel(), buffers=federation.state.buffers.numel())
        self._costs = Costs(config, federation.train.x.shape[1:], autocast_dtype(federation.engine.precision))
        self._version = 0
        self._starts = 0  # of all clients
        self._number: dict[int, int] = {}  # starts of each client so far
        self._works: dict[int, Work] = {}  # of clients on their way
        self._untrained: set[int] = set()
        self._reports: dict[int, ClientReport] = {}  # of clients on their way that are trained
        self._ready: list[Arrival] = []  # at this moment, and not yet taken
        self._versions: dict[int, Tensor] = {}  # models that somebody on its way started from, on rank 0

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `Rounds.run`; who takes part is decided by time, not by `cohort`."""
        self._version = round_
        landed: list[Landed] = []
        self._trained: set[int] = set()
        self._wasted: list[Wasted] = []
        self._start_free()
        while len(landed) < self._size:
            each = self._next()
            if each is not None:
                landed = self._with(landed, each)
            if len(landed) < self._size:
                self._start_free()
        self._train()  # whoever else has started from this version
        outcome = self._step(round_, landed)
        outcome.wasted = self._wasted
        outcome.trained = sorted(self._trained)
        return outcome

    def _with(self, landed: list[Landed], new: Landed) -> list[Landed]:
        """The buffer with a further arrival; with `--buffer latest` that takes the place of what the client sent before."""
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
        taken = [
            Taken(each.arrival.client, each.arrival.number, weight(text, age))
            for each, age in zip(landed, ages, strict=True)
        ]
        begun_from = None
        if self._models and self.federation.ranks.is_server:
            begun_from = [self._versions[each.work.begun] for each in landed]
        outcome = self.buffered.take(round_, taken, begun_from)
        outcome.reports = [each.report for each in landed]
        outcome.begin_bytes = [each.work.download_bytes for each in landed]
        outcome.times = [{**columns(each.arrival), "staleness": age} for each, age in zip(landed, ages, strict=True)]
        outcome.shares = [each.work.shares for each in landed]
        outcome.cost = {
            "train_flops": sum(each.work.flops for each in landed),
            "client_memory_bytes": max(each.work.memory_bytes for each in landed),
        }
        if self.masks is not None:
            outcome.held = sum(each.work.held for each in landed) / len(landed)
            self.masks.close(self.buffered.mean_update)
        outcome.virtual_time_s = self._simulator.now
        versions = {work.begun for work in self._works.values()}
        self._versions = {v: model for v, model in self._versions.items() if v in versions}
        self.ledger.step(outcome.change_bytes, outcome.buffers_bytes)
        self.federation.sampler.observe(outcome.reports)
        return outcome

    def _next(self) -> Landed | None:
        """The next arrival, which frees its place. All of a moment come, in the order of their numbers, before anyone
        starts again. None if before that the server gave up on a client, which frees its place too."""
        if not self._ready:
            first = self._simulator.next_arrival(self._patience())
            if first is None and (late := self._overdue()):
                self._wasted += self._give_up(late)
                return None
            if first is None:
                raise RoundError("no client is on its way any more, and the server still waits")
            self._ready = [first]
            while (another := self._simulator.next_arrival(until=first.time)) is not None:
                self._ready.append(another)
        return self._land(self._ready.pop(0))

    def _patience(self) -> float | None:
        """When the server gives up on the client that has been at work longest; None: never."""
        ends = min((work.begun_s for work in self._works.values()), default=math.inf) + self._timeout
        return ends if ends < math.inf else None

    def _overdue(self) -> list[int]:
        now = self._simulator.now
        return [client for client, work in self._works.items() if work.begun_s + self._timeout <= now]

    def _give_up(self, late: Iterable[int]) -> list[Wasted]:
        """The server no longer waits for these. What they downloaded is charged, and what they sent if they had begun to."""
        wasted = []
        for client in sorted(late):
            report = self._reports.pop(client, None)
            sent = report.uplink_bytes if report is not None and self._simulator.uploads(client) else 0
            self._simulator.abandon(client)
            if client in self._untrained:
                self._untrained.remove(client)
                self._number[client] = self._number.get(client, 0) + 1
            else:
                self.buffered.waiting.pop((client, self._number.get(client, 0) - 1), None)
            wasted.append(Wasted(client, self._works.pop(client).download_bytes, sent))
        return wasted

    def _land(self, arrival: Arrival) -> Landed:
        client = arrival.client
        return Landed(arrival, self._works.pop(client), self._reports.pop(client))

    def _start_free(self) -> None:
        """Fill the free places with clients drawn from those that are not on their way; the draw is that of the start."""
        config = self.federation.config
        assert config.clients is not None
        if self._ready:
            return
        while len(self._works) < self._concurrency:
            free = [client for client in range(config.clients) if client not in self._works]
            now = self._simulator.now
            [client] = self.federation.sampler.draw(
                free, 1, self._version, now=now, purpose="start", number=self._starts
            )
            self._start(client)

    def _start(self, client: int) -> None:
        federation = self.federation
        self._starts += 1
        self._untrained.add(client)
        model, holding = federation.engine.model, None
        if self.masks is not None:
            self.masks.begin(self._version, sorted(self._untrained))
            sub = self.masks.part(client).sub
            model = model if sub is None else sub.model
            holding = (self.masks.holdings([client]) or {}).get(client)
        [samples] = samples_trained(federation.config, [len(federation.parts[client])])
        [flops], memory = self._costs.each([model], [samples]), self._costs.of(model)
        download = self.ledger.start(client, holding)
        held = federation.state.layout.total if holding is None else holding.held
        starts = self._simulator.now + federation.sampler.wait_s(client, self._simulator.now)
        memory_bytes = 0 if memory is None else memory.memory_bytes
        self._works[client] = Work(self._version, starts, download, held, int(flops), memory_bytes, self.shares(client))
        compute_s = flops / self._profiles[client].compute_flops
        self._simulator.start(client, starts, download, compute_s)
        lost = federation.config.lost
        if lost and numpy_generator(federation.config.seed, "lost", client, self._starts).random() < lost:
            self._lose(client)
            return
        if self._models and federation.ranks.is_server and self._version not in self._versions:
            self._versions[self._version] = federation.state.parameters.clone()

    def _lose(self, client: int) -> None:
        """A client goes away with what it downloaded: it is not trained, and must download everything if it comes back."""
        self._simulator.never(client)
        self._untrained.remove(client)
        self._number[client] = self._number.get(client, 0) + 1
        self.ledger.forget(client)

    def _upload_bytes(self, client: int) -> int:
        """The simulator needs to know how much this client sends."""
        if client in self._untrained:
            self._train()
        return self._reports[client].uplink_bytes

    def _train(self) -> None:
        """Train all that have started from the present version, each on its rank. Collective."""
        if not self._untrained:
            return
        numbers = {client: self._number.get(client, 0) for client in sorted(self._untrained)}
        self.buffered.begin(self._version, numbers)
        self._train_all(numbers, self._version)
        for report in self.buffered.collect(keep=self._keeps):
            self._reports[report.client] = report
            self._number[report.client] = numbers[report.client] + 1
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
            "simulator": self._simulator.state_dict(),
            "ledger": self.ledger.state_dict(),
            "starts": self._starts,
            "number": sorted(self._number.items()),
            "works": [[client, *work] for client, work in sorted(self._works.items())],
            "reports": [[client, *report.row()] for client, report in sorted(self._reports.items())],
            "ready": [list(arrival) for arrival in self._ready],
        }

    def load_plan(self, plan: dict[str, Any]) -> None:
        """As in `Rounds.load_plan`."""
        super().load_plan(plan)
        self._simulator.load_state_dict(plan["simulator"])
        self.ledger.load_state_dict(plan["ledger"])
        self._starts = plan["starts"]
        self._number = dict(plan["number"])
        self._works = {client: Work(*values) for client, *values in plan["works"]}
        self._reports = {client: ClientReport.of_row(client, row) for client, *row in plan["reports"]}
        self._ready = [Arrival(*values) for values in plan["ready"]]
