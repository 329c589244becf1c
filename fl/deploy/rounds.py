"""Synchronous rounds whose clients train at sites of their own."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from fl.comm.ledger import Ledger
from fl.comm.message import ClientReport, Message, Rejection
from fl.common.program import program
from fl.data import Schema
from fl.rounds.result import RoundResult
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

    def receive(self) -> tuple[int, Outcome]:
        """Wait for one of the jobs that were sent: its client, and what it came to; a Rejection if it never will."""

    def survey(self, clients: int, schema: Schema) -> list[int]:
        """How many samples, read as `schema` says, the site of each of so many clients has. Waits for all of them, but not
        for ever; ConfigError for one that is not there, DataError for one that cannot take part."""


class SiteRounds(SyncRounds):
    """The rounds of one process that serves, and asks sites for the messages of all clients."""

    def __init__(self, worker: Worker, sampler: Sampler, engine: Engine) -> None:
        super().__init__(worker, sampler)
        self._engine = engine
        self._ledger = Ledger(parameters=self.state.parameters.numel(), buffers=self.state.buffers.numel())
        self._sites = Sites(self.state, self._ledger.model_bytes)
        self._payload_bytes = 0  # sent for messages that came, and these
        self._engine_bytes = 0
        self._waited = False  # for all sites
        self._last: list[int] = []  # the clients of the last round
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
        """Where a round can do with fewer, the clients whose sites are there; the first round waits for all."""
        clients, least = super().present(), self.worker.config.min_clients
        if least is None:
            return clients
        return self._engine.connected(clients, least if self._waited else len(clients))

    def messages(self, numbers: Mapping[int, int], version: int) -> Iterator[Message | Rejection | None]:
        """All sites are asked at once, with the first message that is asked for."""
        for client, outcome in self._asked(numbers):
            if isinstance(outcome, Message):
                self._payload_bytes += outcome.report.uplink_bytes
            yield outcome if isinstance(outcome, (Message, Rejection)) else Rejection(client, _NO_MESSAGE)

    def deliver(self) -> list[Rejection]:
        """The run is over: the clients of its last round get the final model, for which they were charged. Returns why
        some have not."""
        number = self._sites.version
        outcomes = [outcome for _, outcome in self._asked(dict.fromkeys(self._last, number), ends=True)]
        return [outcome for outcome in outcomes if isinstance(outcome, Rejection)]

    def _asked(self, numbers: Mapping[int, int], *, ends: bool = False) -> Iterator[tuple[int, Outcome]]:
        """Ask the sites of these clients, at once, and then yield what came of each, in their order."""
        sent = {client: self._ask(client, number, ends=ends) for client, number in numbers.items()}
        outcomes: dict[int, Outcome] = {}
        for client in numbers:
            while client not in outcomes:
                who, outcome = self._engine.receive()
                self._sites.forget(who)
                if isinstance(outcome, Lost) and sent[who][0] != WHOLE:
                    logging.getLogger("leanfed").warning(_HAS_LOST, who)
                    sent[who] = self._ask(who, numbers[who], ends=ends)
                    continue
                outcomes[who] = Rejection(who, _NO_MODEL) if isinstance(outcome, Lost) else outcome
                if not isinstance(outcomes[who], Rejection):
                    self._sites.has(who)
                    self._payload_bytes += sent[who][1]
            yield client, outcomes.pop(client)

    def _ask(self, client: int, number: int, *, ends: bool) -> tuple[int, int]:
        """Send a job; the version that its download leads on from, and the bytes of that."""
        since, sections = self._sites.download(client, trains=not ends)
        if since == WHOLE:
            self._ledger.forget(client)
        known = self.worker.schema
        schema = known.to_json() if known and since == WHOLE else ""
        run, version, counted = self._sites.run, self._sites.version, self._sites.counted(client)
        self._engine.send(SiteJob(run, client, number, version, since, counted, program(), ends, schema, sections))
        return since, sum(section.numel() for section in sections.values())

    def gather(self, *args: Any, **options: Any) -> list[ClientReport]:
        reports = super().gather(*args, **options)
        self._sites.accepted(reports)
        self._last = [report.client for report in reports]
        return reports

    def apply(self, sections: Mapping[str, Tensor]) -> dict[str, int]:
        self._sites.published(sections)
        return super().apply(sections)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sites": self._sites.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._sites.load_state_dict(state["sites"])
