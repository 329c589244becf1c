"""Synchronous rounds whose clients train at sites of their own."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from fl.comm.ledger import Ledger
from fl.comm.message import ClientReport, Message, Rejection
from fl.common.errors import ConfigError
from fl.common.mode import mode_of
from fl.common.program import program
from fl.data import Schema
from fl.rounds.result import Dropped, RoundResult
from fl.rounds.sampling import Sampler
from fl.rounds.sync import SyncRounds
from fl.training.worker import Worker

from .protocol import WHOLE, Lost, Outcome, SiteJob
from .sites import Sites

_NO_MESSAGE = "its site has sent no message of a client"
_HAS_LOST = (
    "the site of client %d has lost its copy of the model, and what its client kept: it is sent all of the model"
)
_NO_MODEL = "its site says that it lacks a model that it was sent whole"


class Engine(Protocol):
    """Carries jobs to sites, and back what they came to."""

    carried_bytes: int
    """Bytes of all messages so far, both ways, payloads included."""

    def connected(self, clients: Sequence[int], least: int) -> list[int]:
        """Which of these clients have a site that is there, in their order; waits for so many of them, but not for ever."""

    def send(self, job: SiteJob) -> None:
        """Send a job to the site of its client. Does not wait for it to be done."""

    def receive(self, patience_s: float = math.inf) -> tuple[int, Outcome] | None:
        """Wait for one of the jobs that were sent: its client, and what it came to; a Rejection if it never will. None if
        that takes longer."""

    def survey(self, clients: int, schema: Schema) -> list[int]:
        """How many samples, read as `schema` says, the site of each of so many clients has. Waits for all of them, but not
        for ever; ConfigError for one that is not there, DataError for one that cannot take part."""


class _Asked(NamedTuple):
    """A job that a site has: the version that it brings, the one that its download leads on from, and bytes of that."""

    version: int
    since: int
    size: int


class SiteRounds(SyncRounds):
    """The rounds of one process that serves, and asks sites for the messages of all clients.

    With `--deadline` or `--over-select` a round ends without those that are late. A late client is not asked again until its
    site has answered, and what that says of its update does not count: its residual is as if it had not been asked.
    """

    def __init__(self, worker: Worker, sampler: Sampler, engine: Engine) -> None:
        super().__init__(worker, sampler)
        if sampler.by_time and not mode_of(worker.config).takes_time:
            raise ConfigError(
                f"--sampling {worker.config.sampling} goes by virtual seconds, and real ones pass across sites when a round "
                "does not wait for everybody: give rounds"
            )
        self._engine = engine
        self._ledger = Ledger(parameters=self.state.parameters.numel(), buffers=self.state.buffers.numel())
        self._sites = Sites(self.state, self._ledger.model_bytes)
        self._payload_bytes = 0  # sent for messages that came, and these
        self._engine_bytes = 0
        self._waited = False  # for all sites
        self._last: list[int] = []  # the clients of the last round
        self._outcomes: dict[int, Outcome] = {}  # of a round, by client
        self._late: dict[int, _Asked] = {}  # of earlier rounds, by client: sites that have not answered yet
        self.participants.append(self._sites)

    @property
    def ledger(self) -> Ledger | None:
        return self._ledger

    @property
    def kept_vectors(self) -> int:
        return 0  # here: they are at the sites

    @property
    def engine_bytes(self) -> int | None:
        return self._engine_bytes

    def run(self, number: int) -> RoundResult:
        before, self._payload_bytes = self._engine.carried_bytes, 0
        result = super().run(number)
        self._waited = True
        self._engine_bytes = self._engine.carried_bytes - before - self._payload_bytes
        return result

    def present(self) -> list[int]:
        """Where a round can do with fewer, the clients whose sites are there and free; the first round waits for all."""
        clients, least = super().present(), self.worker.config.min_clients
        if least is None:
            return clients
        patience_s = 0.0
        while True:
            while self._late and self._receive_late(patience_s):
                patience_s = 0.0
            there = self._engine.connected(clients, least if self._waited else len(clients))
            free = [client for client in there if client not in self._late]
            if len(free) >= least or not self._late:
                return free
            patience_s = math.inf

    def messages(self, numbers: Mapping[int, int], version: int) -> Iterator[Message | Rejection | None]:
        """Those that have come."""
        for client in numbers:
            outcome = self._outcomes.pop(client)
            if isinstance(outcome, Message):
                self._payload_bytes += outcome.report.uplink_bytes
            yield outcome if isinstance(outcome, (Message, Rejection)) else Rejection(client, _NO_MESSAGE)

    def deliver(self) -> list[Rejection]:
        """The run is over: the clients of its last round get the final model, for which they were charged. Returns why
        some have not."""
        number = self._sites.version
        self._collect(dict.fromkeys(self._last, number), ends=True)
        return [outcome for outcome in self._outcomes.values() if isinstance(outcome, Rejection)]

    def _collect(self, numbers: Mapping[int, int], *, ends: bool = False) -> None:
        """Ask the sites of these clients, at once, and wait for what comes of each. A round that has as many updates as it
        needs waits no longer than until its deadline, or for as many as it is to have."""
        config, asked = self.worker.config, {}
        for client, number in numbers.items():
            asked[client] = self._ask(client, number, ends=ends)
        until = time.monotonic() + config.deadline if config.deadline and not ends else math.inf
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < len(numbers):
            came = sum(isinstance(outcome, Message) for outcome in outcomes.values())
            if config.over_select > 1 and came >= (config.clients_per_round or 0):
                break
            enough = came >= (config.min_clients or len(numbers))
            found = self._engine.receive(max(0.0, until - time.monotonic()) if enough else math.inf)
            if found is None:
                break
            who, outcome = found
            if who in self._late:
                self._forget_late(who, outcome)
                continue
            self._sites.forget(who)
            if isinstance(outcome, Lost) and asked[who].since != WHOLE:
                logging.getLogger("leanfed").warning(_HAS_LOST, who)
                asked[who] = self._ask(who, numbers[who], ends=ends)
                continue
            outcomes[who] = Rejection(who, _NO_MODEL) if isinstance(outcome, Lost) else outcome
            if not isinstance(outcomes[who], Rejection):
                self._sites.has(who, asked[who].version)
                self._payload_bytes += asked[who].size
        for client in numbers.keys() - outcomes.keys():
            self._sites.forget(client)
            self._late[client] = asked[client]
            self._payload_bytes += asked[client].size
        self._outcomes = {client: outcomes[client] for client in numbers if client in outcomes}

    def _receive_late(self, patience_s: float) -> bool:
        """Wait for the answer of a client that was late; whether one has come."""
        found = self._engine.receive(patience_s)
        if found is not None:
            self._forget_late(*found)
        return found is not None

    def _forget_late(self, client: int, outcome: Outcome) -> None:
        """A late answer has come: the client can be asked again."""
        asked = self._late.pop(client)
        if isinstance(outcome, Message):
            self._sites.has(client, asked.version)

    def _ask(self, client: int, number: int, *, ends: bool) -> _Asked:
        """Send a job."""
        since, sections = self._sites.download(client, trains=not ends)
        if since == WHOLE:
            self._ledger.forget(client)
        known = self.worker.schema
        schema = known.to_json() if known and since == WHOLE else ""
        run, version, counted = self._sites.run, self._sites.version, self._sites.counted(client)
        self._engine.send(SiteJob(run, client, number, version, since, counted, program(), ends, schema, sections))
        return _Asked(version, since, sum(section.numel() for section in sections.values()))

    def gather(self, numbers: Mapping[int, int], version: int, take: Callable[[Message], object]) -> list[ClientReport]:
        self._collect(numbers)
        came = {client: number for client, number in numbers.items() if client in self._outcomes}
        if len(came) < len(numbers):
            self.rejections.begin(version, len(came))  # late clients have not failed
        reports = super().gather(came, version, take)
        self._sites.accepted(reports)
        self._last = [report.client for report in reports]
        return reports

    def _result(self, cohort: list[int], reports: list[ClientReport], published: dict[str, int]) -> RoundResult:
        late = [client for client in cohort if client in self._late]
        downloads = [Dropped(client, self._ledger.download(client)[0], 0) for client in late]
        return dataclasses.replace(super()._result(cohort, reports, published), dropped=downloads)

    def apply(self, sections: Mapping[str, Tensor]) -> dict[str, int]:
        self._sites.published(sections)
        return super().apply(sections)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sites": self._sites.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._sites.load_state_dict(state["sites"])
