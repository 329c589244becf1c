"""Rounds that wait for all of their clients."""

from fl.comm.message import ClientReport
from fl.common.errors import RoundError

from .base import transaction
from .federated import FederatedRounds
from .result import RoundResult
from .sampling import asked


class SyncRounds(FederatedRounds):
    """Sample, train, gather, receive, step, apply."""

    def run(self, number: int) -> RoundResult:
        cohort = self.cohort(number)
        with transaction(self.participants):
            self.rejections.begin(number, len(cohort), drawn=self.sampler.draws_count)
            self.plan.begin(number, cohort)  # the submodel of each client
            self.begin()
            reports = self.gather(dict.fromkeys(cohort, number), number, lambda message: self.receive(message, number))
            published = self.apply(self.transport.share(lambda: self.step(number, reports)))
            self.sampler.observe(reports)
            return self._result(cohort, reports, published)

    def cohort(self, number: int) -> list[int]:
        """The clients of a round, ascending; the same on every rank."""
        config = self.worker.config
        free, now = self.present(), self.sampler.now
        cohort = self.sampler.draw(free, min(len(free), asked(config)), number, now=now)
        if not cohort and free and not self.sampler.draws_count:
            raise RoundError(f"round {number}: no client is up, or will be: --sampling {config.sampling}")
        return cohort

    def _result(self, cohort: list[int], reports: list[ClientReport], published: dict[str, int]) -> RoundResult:
        clients = [report.client for report in reports]
        if self.ranks.is_server:
            self.held.sizes, self.held.new_mask = self.plan.sizes(cohort), self.plan.new_mask
            holders = clients or [0]  # where nobody was drawn, all would hold the same
            self.held.mean = sum(self.plan.held(client) for client in holders) / len(holders)
        return RoundResult(
            reports,
            self.held,
            published,
            self.server.update_norm,
            columns=[self.columns(client) for client in clients],
            rejected=list(self.rejections.of_round),
        )
