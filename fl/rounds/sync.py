"""Rounds that wait for all of their clients."""

import time

from fl.comm.message import ClientReport
from fl.common.errors import RoundError
from fl.common.stopping import stopping
from fl.training.worker import Worker

from .ahead import Ahead
from .base import transaction
from .federated import FederatedRounds
from .result import RoundResult
from .sampling import Sampler, asked


class SyncRounds(FederatedRounds):
    """Sample, train, gather, receive, step, apply; with `--overlap` the next round's clients train meanwhile."""

    def __init__(self, worker: Worker, sampler: Sampler) -> None:
        super().__init__(worker, sampler)
        config = worker.config
        self._ahead = Ahead(self.trainer, worker.engine.device)
        self.participants.append(self._ahead)
        # DeepSpeed's engine calls collective operations of its own, and several ranks of a client average gradients.
        alone = worker.engine.name != "deepspeed" and self.ranks.peers is None
        # Buffers are published every round.
        self._overlaps = config.overlap and alone and self.ranks.world_size > 1 and not self.state.buffers.numel()

    def run(self, number: int) -> RoundResult:
        cohort = self.cohort(number)
        numbers = dict.fromkeys(cohort, number)
        if not self.clients_keep:
            self.ranks.place({client: self.local_plan.steps(self.worker.sizes[client]) for client in cohort})
        with transaction(self.participants):
            self.rejections.begin(number, len(cohort), drawn=self.sampler.draws_count)
            self.plan.begin(number, cohort)  # the submodel of each client
            self.begin()
            with self._ahead:
                reports = self.gather(numbers, number, lambda message: self.receive(message, number))
                sections = self.transport.share(lambda: self.step(number, reports))
            for rejection in self.rejections.of_round:
                self._ahead.forget(rejection.client)
            published = self.apply(sections)
            self.sampler.observe(reports)
            result = self._result(cohort, reports, published)
            if self._overlaps and self.transport.is_one_batch(cohort):
                seconds = time.perf_counter() - self.transport.made_s - self._ahead.waited_s
                result.exchange_s = self.ranks.largest(round(1e6 * seconds)) / 1e6
            return result

    def made(self, number: int) -> None:
        """With `--overlap`: train ahead those of the next round's clients that need nothing of this round."""
        config, following = self.worker.config, number + 1
        if not self._overlaps or following == config.all_rounds or stopping.status:
            return
        free = self.present()
        cohort = self.sampler.foresee(free, min(len(free), asked(config)), following)
        if not self.transport.is_one_batch(cohort):
            return
        states = {client: self.states.get(client, put=True) for client in filter(self.ranks.hosts, cohort)}
        early = [client for client, own in states.items() if self.plan.begins_early(own.get("weights", {}), following)]
        if early:
            self._ahead.start(
                following,
                lambda: self.trainer.train_many(
                    early,
                    lambda client: self.prepare(client, following, following, states[client]),
                    self.corrections,
                ),
            )

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
