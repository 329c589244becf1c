"""Synchronous rounds that do not wait for everybody: `--deadline` and `--over-select`."""

import math

from .buffered import BufferedRounds, Landed
from .clock.simulator import Arrival
from .federation import Federation
from .outcome import RoundOutcome, Wasted


class DeadlineRounds(BufferedRounds):
    """A round ends when as many have arrived as were asked for, at its deadline, or when nobody is on the way.

    `--over-select F` starts F times as many clients as are asked for (`--clients-per-round`), and takes the first. Who is
    late is dropped, with `--late drop`: its update is lost, and what it did not send stays with it, as if it had not been
    asked. With `--late carry` it arrives in a later round and counts by its age, as in PR-FL's and FedFix's time windows;
    until then it is not asked again. A round waits for its first arrival, however late that is;
    if nobody comes back, it begins anew.
    """

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation)
        config = federation.config
        assert config.clients is not None
        self._asked = min(config.clients, math.ceil(config.over_select * self._concurrency - 1e-9))
        self._deadline = config.deadline or math.inf
        self._carries = config.late == "carry"
        self._keeps = self._carries

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `Rounds.run`; the cohort is drawn here, of those that are not on their way."""
        self._version = round_
        self._trained: set[int] = set()
        self._wasted: list[Wasted] = []
        landed: list[Landed] = []
        while not landed:  # a round from which nobody comes back begins anew
            landed = self._collect(round_)
        outcome = self._step(round_, landed)
        outcome.wasted = self._wasted
        if not self._carries:
            for each in landed:
                self.buffered.settle(each.report.client, arrived=True)
        outcome.trained = sorted(self._trained)
        return outcome

    def _collect(self, round_: int) -> list[Landed]:
        """Start the clients of a round, and wait for what arrives in time."""
        begins = self.at_work.now
        for client in self._draw(round_):
            self._start(client)
        landed: list[Landed] = []
        until = begins + self._deadline if self._deadline < math.inf else None
        while self.at_work.works and len(landed) < self._concurrency:
            arrival = self.at_work.next_until(until) if landed else self._first(until)
            if arrival is None:
                break
            landed.append(self._land(arrival))
        if not self._carries:
            self._wasted += self._drop()
        else:
            self._train()  # before the version ends
            self._wasted += self._give_up(self.at_work.overdue())
        return landed

    def _draw(self, round_: int) -> list[int]:
        config = self.federation.config
        assert config.clients is not None
        free = [client for client in range(config.clients) if client not in self.at_work.works]
        return self.federation.sampler.draw(free, self._asked, round_, now=self.at_work.now)

    def _first(self, until: float | None) -> Arrival | None:
        """The first arrival, by the deadline if it can be."""
        return self.at_work.next_until(until) or self.at_work.next_until(self.at_work.patience())

    def _drop(self) -> list[Wasted]:
        """Give up on who is still on the way, as if it had not been asked."""
        late = sorted(self.at_work.works)
        wasted = self._give_up(late)
        for client in late:
            self.buffered.settle(client, arrived=False)
        return wasted
