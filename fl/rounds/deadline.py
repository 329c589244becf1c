"""Synchronous rounds that do not wait for everybody: `--deadline` and `--over-select`."""

import itertools
import math

from fl.clock.simulator import Arrival
from fl.common.errors import RoundError
from fl.training.worker import Federation

from .buffered import BufferedRounds, Landed
from .result import RoundOutcome, Wasted
from .sampling import Sampler, asked


class DeadlineRounds(BufferedRounds):
    """A round ends when as many have arrived as were asked for, at its deadline, or when nobody is on the way.

    `--over-select F` starts F times as many clients as are asked for (`--clients-per-round`), and takes the first. Who is
    late is dropped, with `--late drop`: its update is lost, and what it did not send stays with it, as if it had not been
    asked. With `--late carry` it arrives in a later round and counts by its age, as in PR-FL's and FedFix's time windows;
    until then it is not asked again. A round waits for its first arrival, however late that is;
    if nobody comes back, it begins anew.
    """

    def __init__(self, federation: Federation, sampler: Sampler) -> None:
        super().__init__(federation, sampler)
        config = federation.config
        self._asked = asked(config)
        self._deadline = config.deadline or math.inf
        self._carries = config.late == "carry"
        self._keeps = self._carries

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `Rounds.run`; the cohort is drawn here, of those that are not on their way."""
        self._version = round_
        self._trained: set[int] = set()
        self._wasted: list[Wasted] = []
        self.late = []
        for attempt in itertools.count():
            landed = self._collect(round_, attempt)
            if landed:
                break  # a round from which nobody comes back begins anew
        outcome = self._step(round_, landed)
        outcome.wasted = self._wasted
        if not self._carries:
            for each in landed:
                self.buffered.settle(each.report.client, arrived=True)
        outcome.trained = sorted(self._trained)
        return outcome

    def _collect(self, round_: int, attempt: int) -> list[Landed]:
        """Start the clients of a round, and wait for what arrives in time."""
        begins = self.at_work.now
        for client in self._draw(round_, attempt):
            self._start(client)
        if not self.at_work.works:
            raise RoundError(
                f"no client is up at second {begins:g}, or later: --sampling {self.federation.config.sampling}"
            )
        landed: list[Landed] = []
        until = begins + self._deadline
        while len(landed) < self._concurrency:
            arrival = self._arrival(until, first=not landed)
            if arrival is None:
                break
            landed.append(self._land(arrival))
        if not self._carries:
            self._wasted += self._drop()
        else:
            self._train()  # before the version ends
        return landed

    def _draw(self, round_: int, attempt: int) -> list[int]:
        """The clients that are asked; a round that begins anew draws anew."""
        config, now = self.federation.config, self.at_work.now
        assert config.clients is not None
        free = [client for client in range(config.clients) if client not in self.at_work.works]
        purpose, number = ("again", self.at_work.starts) if attempt else ("cohort", round_)
        return self.sampler.draw(free, self._asked, round_, now=now, purpose=purpose, number=number)

    def _arrival(self, until: float, *, first: bool) -> Arrival | None:
        """The next arrival by the deadline, or, if it is the first, however late; None if there is none."""
        while self.at_work.works:
            waits = math.inf if first and self.at_work.now >= until else until
            limit = min(waits, self.at_work.patience() or math.inf)
            arrival = self.at_work.next_until(limit if limit < math.inf else None)
            if arrival is not None:
                return arrival
            late = self.at_work.overdue()
            self._wasted += self._give_up(late)
            if not late and not (first and waits < math.inf):
                return None
        return None

    def _drop(self) -> list[Wasted]:
        """Give up on who is still on the way, as if it had not been asked."""
        late = sorted(self.at_work.works)
        wasted = self._give_up(late)
        for client in late:
            self.buffered.settle(client, arrived=False)
        return wasted
