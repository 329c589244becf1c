"""Synchronous rounds whose clients train at sites of their own."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping

from fl.comm.message import ClientReport, Message
from fl.rounds.result import Dropped, RoundResult
from fl.rounds.sync import SyncRounds

from .protocol import Lost, Outcome
from .rounds import SiteRounds


class SyncSiteRounds(SiteRounds, SyncRounds):
    """A round asks its clients at once, and waits for all of them.

    With `--deadline` or `--over-select` it ends without those that are late. A late client is not asked again until its
    site has answered, and what that says of its update does not count: its residual is as if it had not been asked.
    """

    def present(self) -> list[int]:
        """Where a round can do with fewer, the clients whose sites are there and free; the first round waits for all."""
        clients, least = super().present(), self.worker.config.min_clients
        if least is None:
            return clients
        patience_s = 0.0
        while True:
            while self.asked and self.next_answer(patience_s):  # late
                patience_s = 0.0
            free = [client for client in self.connected(clients, least) if client not in self.asked]
            if len(free) >= least or not self.asked:
                return free
            patience_s = math.inf

    def gather(self, numbers: Mapping[int, int], version: int, take: Callable[[Message], object]) -> list[ClientReport]:
        self._collect(numbers)
        came = {client: number for client, number in numbers.items() if client in self.outcomes}
        if len(came) < len(numbers):
            self.rejections.begin(version, len(came))  # late clients have not failed
        reports = super().gather(came, version, take)
        self.last = [report.client for report in reports]
        return reports

    def _collect(self, numbers: Mapping[int, int]) -> None:
        """Ask the sites of these clients, and wait for what comes of each. A round that has as many updates as it needs
        waits no longer than until its deadline, or for as many as it is to have."""
        config = self.worker.config
        for client, number in numbers.items():
            self.ask(client, number)
        until = time.monotonic() + config.deadline if config.deadline else math.inf
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < len(numbers):
            came = sum(isinstance(outcome, Message) for outcome in outcomes.values())
            if config.over_select > 1 and came >= (config.clients_per_round or 0):
                break
            enough = came >= (config.min_clients or len(numbers))
            found = self.next_answer(max(0.0, until - time.monotonic()) if enough else math.inf)
            if found is None:
                break
            client, outcome = found
            if client not in numbers:
                continue  # late for an earlier round
            if isinstance(outcome, Lost):
                self.ask(client, numbers[client])
            else:
                outcomes[client] = outcome
        self.outcomes = outcomes

    def _result(self, cohort: list[int], reports: list[ClientReport], published: dict[str, int]) -> RoundResult:
        late = [client for client in cohort if client in self.asked]
        downloads = [Dropped(client, self.ledger.download(client)[0], 0) for client in late]
        return dataclasses.replace(super()._result(cohort, reports, published), dropped=downloads)
