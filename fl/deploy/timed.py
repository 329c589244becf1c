"""Buffered and asynchronous rounds whose clients train at sites of their own: updates count as they really arrive."""

import dataclasses
from collections.abc import Callable, Sequence

from fl.clock.clock import VirtualClock
from fl.clock.profiles import profiles
from fl.clock.simulator import Arrival
from fl.output.record import TIMES
from fl.rounds.result import RoundResult
from fl.rounds.schedules import Arrived
from fl.rounds.timed import TimedRounds

from .protocol import Lost
from .rounds import SiteRounds

_LOOK_S = 1.0
"""So often the server looks whether another site has come, while it waits for those at work."""


class TimedSiteRounds(SiteRounds, TimedRounds):
    """A round is one step of the server, for as many answers as it takes. As many sites are at work as
    `--clients-per-round` says, where so many are there.

    A job is sent when its client starts, and its message gathered when it comes. A server that goes on knows nothing of the
    jobs that were at sites when it was stopped: their clients count as given up on, and start anew.
    """

    def _make_clock(self) -> VirtualClock:
        return SiteClock(self.worker.config.clients or 0, self._arrive)

    def _open(self, number: int) -> None:
        super()._open(number)
        self.give_up(self.in_flight.starts.keys() - self.asked.keys())
        config = self.worker.config
        if config.min_clients is not None:
            there = self.connected(self.present(), config.min_clients)
            self.rejections.begin(number, min(len(there), config.clients_per_round or 0))

    def free(self) -> list[int]:
        """The clients that can be asked, where a round can do with fewer only those whose sites are there."""
        clients = super().free()
        if self.worker.config.min_clients is None:
            return clients
        return self.engine.connected(clients, 0 if self.in_flight.starts else min(1, len(clients)))

    def _start(self, client: int) -> None:
        self.ask(client, self.in_flight.number(client) + 1)
        super()._start(client)

    def _train(self) -> None:
        self._untrained = set()  # at their sites

    def _arrive(self) -> int | None:
        """Wait for the next client, whose message is then in the inbox; None if nobody comes for a while."""
        found = self.next_answer(_LOOK_S)
        if found is None:
            return None
        client, outcome = found
        if isinstance(outcome, Lost):
            self.in_flight.give_up(client)
            self._start(client)
            return None
        self.outcomes[client] = outcome
        self._collect([client], self.in_flight.starts[client].version)
        return client

    def _step(self, number: int, arrived: Sequence[Arrived]) -> RoundResult:
        self.last = list(dict.fromkeys(each.report.client for each in arrived))
        result = super()._step(number, arrived)
        columns = [{name: each for name, each in row.items() if name not in TIMES} for row in result.columns]
        return dataclasses.replace(result, columns=columns, now=None)


class SiteClock(VirtualClock):
    """A clock on which clients really arrive, and no time passes."""

    def __init__(self, clients: int, arrive: Callable[[], int | None]) -> None:
        """`arrive()` waits for the next client; None if nobody comes for a while."""
        super().__init__(profiles("none", clients, 0), 0, int)
        self._arrive = arrive

    def next_arrival(self, until: float | None = None) -> Arrival | None:
        """The next client that arrives; None if nobody does for a while, or at the very moment `until`."""
        client = self._arrive() if until is None else None
        if client is None:
            return None
        self.abandon(client)
        return Arrival(self.now, client, self.number(client), *[self.now] * 6)
