"""Rounds whose clients train at sites of their own: what those that wait for all have in common with those that do not."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from fl.comm.ledger import Ledger
from fl.comm.message import ClientReport, Message, Rejection
from fl.common.errors import ConfigError
from fl.common.mode import mode_of
from fl.common.program import program
from fl.data import Schema
from fl.rounds.federated import FederatedRounds
from fl.rounds.sampling import Sampler
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


class SiteRounds(FederatedRounds):
    """The rounds of one process that serves, and asks sites for the messages of all clients.

    `asked`: the jobs of sites that have not answered yet, by client; each site has one at a time.
    """

    def __init__(self, worker: Worker, sampler: Sampler, engine: Engine) -> None:
        super().__init__(worker, sampler)
        if sampler.by_time and not mode_of(worker.config).takes_time:
            raise ConfigError(
                f"--sampling {worker.config.sampling} goes by virtual seconds, and real ones pass across sites when a round "
                "does not wait for everybody: give rounds"
            )
        self.engine = engine
        self.asked: dict[int, _Asked] = {}
        self.outcomes: dict[int, Outcome] = {}
        """What was received, for `messages`, by client."""
        self.last: list[int] = []
        """The clients of the last round."""
        self._own_ledger = super().ledger or Ledger(
            parameters=self.state.parameters.numel(), buffers=self.state.buffers.numel()
        )
        self._sites = Sites(self.state, self._own_ledger.model_bytes)
        self._before = engine.carried_bytes  # when the last round was over
        self._payload_bytes = 0  # of these since then
        self._engine_bytes = 0
        self._waited = False  # for all sites
        self.participants.append(self._sites)

    @property
    def ledger(self) -> Ledger:
        return self._own_ledger

    @property
    def kept_vectors(self) -> int:
        return 0  # here: they are at the sites

    @property
    def engine_bytes(self) -> int | None:
        return self._engine_bytes

    def connected(self, clients: Sequence[int], least: int) -> list[int]:
        """Which of these clients have a site that is there; waits for so many, and in the first round for all, but not for
        ever."""
        return self.engine.connected(clients, least if self._waited else len(clients))

    def ask(self, client: int, number: int, *, ends: bool = False) -> None:
        """Send a job."""
        since, sections = self._sites.download(client, trains=not ends)
        if since == WHOLE:
            self.ledger.forget(client)
        known, sites = self.worker.schema, self._sites
        schema = known.to_json() if known and since == WHOLE else ""
        counted, saved, size = sites.counted(client), sites.saved(client), sum(map(Tensor.numel, sections.values()))
        of_client = sites.run, client, number, sites.version, since, counted, saved, self.encoder.fractions[client]
        carried = self.engine.carried_bytes
        self.engine.send(SiteJob(*of_client, program(), ends, schema, sections))
        self._payload_bytes += min(size, self.engine.carried_bytes - carried)  # nothing where there is no site
        self.asked[client] = _Asked(sites.version, since, size)

    def next_answer(self, patience_s: float = math.inf) -> tuple[int, Outcome] | None:
        """Wait for the answer of a site: its client, and what its job came to; None if that takes longer. Lost if the client
        must be asked anew."""
        found = self.engine.receive(patience_s)
        if found is None:
            return None
        client, outcome = found
        asked = self.asked.pop(client)
        self._sites.forget(client)
        if isinstance(outcome, Lost):
            if asked.since == WHOLE:
                return client, Rejection(client, _NO_MODEL)
            logging.getLogger("leanfed").warning(_HAS_LOST, client)
            self._payload_bytes -= asked.size  # sent in vain
        elif not isinstance(outcome, Rejection):
            self._sites.has(client, asked.version)
        return found

    def messages(self, numbers: Mapping[int, int], version: int) -> Iterator[Message | Rejection | None]:
        """Those that have come."""
        for client in numbers:
            outcome = self.outcomes.pop(client)
            if isinstance(outcome, Message):
                self._payload_bytes += outcome.report.uplink_bytes
            yield outcome if isinstance(outcome, (Message, Rejection)) else Rejection(client, _NO_MESSAGE)

    def gather(self, numbers: Mapping[int, int], version: int, take: Callable[[Message], object]) -> list[ClientReport]:
        reports = super().gather(numbers, version, take)
        self._sites.accepted(reports)
        return reports

    def apply(self, sections: Mapping[str, Tensor]) -> dict[str, int]:
        self._sites.published(sections)
        self._waited = True
        self._engine_bytes = self.engine.carried_bytes - self._before - self._payload_bytes
        self._before, self._payload_bytes = self.engine.carried_bytes, 0
        return super().apply(sections)

    def deliver(self) -> list[Rejection]:
        """The run is over: the clients of its last round get the final model, for which they were charged. Returns why
        some have not."""
        while not self.asked.keys().isdisjoint(self.last):
            self.next_answer()  # an update that is too late
        for client in self.last:
            self.ask(client, self._sites.version, ends=True)
        failed = []
        while not self.asked.keys().isdisjoint(self.last):
            if (found := self.next_answer()) is None or (client := found[0]) not in self.last:
                continue
            if isinstance(outcome := found[1], Lost):
                self.ask(client, self._sites.version, ends=True)
            elif isinstance(outcome, Rejection):
                failed.append(outcome)
        return failed

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "sites": self._sites.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._sites.load_state_dict(state["sites"])
