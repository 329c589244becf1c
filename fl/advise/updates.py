"""Real updates: a few rounds without compression, made by the parts of any run, of which nothing is written down."""

import contextlib
import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from compression import Layout, Sender
from compression.wire import Sparse
from fl.comm.encoder import Encoder
from fl.comm.message import Message, share_model
from fl.common.config import Config
from fl.common.generators import kept_generators
from fl.common.paths import expand_paths
from fl.common.ranks import in_groups, join_ranks
from fl.common.surroundings import on_cpu_by_default, replaying, usual_surroundings
from fl.models.submodel import Submodel
from fl.models.update import Job, Update
from fl.rounds.sampling import counts_alike, make_sampler
from fl.rounds.sync import SyncRounds
from fl.run.build import assemble
from fl.run.checks import check_options, resolve
from fl.training.engine.deepspeed_config import reconcile
from fl.training.local_plan import LocalPlan
from fl.training.worker import Worker

ROUNDS = 8
"""Consecutive updates of the same client: error feedback shows only over several."""
STEPS = 20
"""Local steps of each, at most."""
CLIENTS = 2
"""Clients whose mean the server sends, at most."""

_DENSE: dict[str, Any] = {
    **{"uplink": "none", "downlink": "none", "error_feedback": "none"},
    **{"uplink_warmup": 0, "uplink_shares": "none"},
}


@dataclass(frozen=True)
class Sent:
    """What a client had to send in a round; see `Encoder.encode`."""

    job: Job
    update: Update
    sections: Mapping[str, Tensor]
    residual_mask: Tensor | None


@dataclass(frozen=True)
class Published:
    """What the server had to send in a round: the change of the parameters, fp32 [n], inside `submodel`. `key` seeds the
    codec's random choices."""

    change: Tensor
    submodel: Submodel
    key: int


@dataclass(frozen=True)
class Recording:
    """Consecutive updates of the client that has most samples, and the changes that the server made of its and others'.

    `config`: of the run that is asked about, resolved. `train_s`: seconds in which the client trains for one of its rounds
    here, from the median step. `other_bytes`: of what travels up and down besides (BatchNorm statistics, masks).
    """

    config: Config
    rounds: SyncRounds
    uplink: list[Sent]
    downlink: list[Published]
    other_bytes: tuple[int, int]
    train_s: float

    @property
    def uplink_rounds(self) -> int:
        """How often a client takes part in the run, at least 1 and at most `ROUNDS`: as often it sends what it owes."""
        assert self.config.clients is not None
        assert self.config.clients_per_round is not None
        return min(ROUNDS, max(1, round(self.config.all_rounds * self.config.clients_per_round / self.config.clients)))

    @property
    def downlink_rounds(self) -> int:
        """How often the server sends in the run, at most `ROUNDS`."""
        return min(ROUNDS, self.config.all_rounds)

    @property
    def layout(self) -> Layout:
        """Of updates and changes."""
        return self.rounds.state.layout


@contextlib.contextmanager
def recorded(config: Config, explicit: frozenset[str]) -> Iterator[Recording]:
    """Make `ROUNDS` rounds; within the block threads and random streams are those of a run.

    Raises ConfigError, DataError or RoundError as a run does.
    """
    config = reconcile(dataclasses.replace(expand_paths(config), **_DENSE), explicit)
    check_options(config, explicit)
    with (
        usual_surroundings(),
        kept_generators(),
        on_cpu_by_default(),
        join_ranks(config) as one,
        replaying(one.device),
        in_groups(one) as ranks,
    ):
        worker = assemble(resolve(config, world_size=1, threads=ranks.threads, explicit=explicit), ranks)
        yield _record(worker)


def _record(worker: Worker) -> Recording:
    asked, first = worker.config, max(range(len(worker.parts)), key=lambda client: len(worker.parts[client]))
    steps = worker.local_plan.steps(len(worker.parts[first]))
    worker.config = dataclasses.replace(asked, local_steps=min(steps, STEPS), local_epochs=None)
    worker.local_plan = LocalPlan(worker.local_plan.algorithm, worker.config, alike=counts_alike(worker.config))
    rounds = _Rounds(worker, first)
    share_model(worker.ranks, worker.state)
    for number in range(ROUNDS):
        rounds.run(number)
    own = rounds.recorder.sent
    step_s = statistics.median(sent.update.train_s for sent in own[1:]) / min(steps, STEPS)
    return Recording(asked, rounds, own, rounds.sender.published, rounds.other_bytes, step_s * steps)


class _Rounds(SyncRounds):
    """Rounds that remember what the client `first` and the server had to send."""

    def __init__(self, worker: Worker, first: int) -> None:
        super().__init__(worker, make_sampler(worker.config, [len(part) for part in worker.parts]))
        others = [client for client in range(len(worker.parts)) if client != first and len(worker.parts[client])]
        count = min(CLIENTS, worker.config.clients_per_round or 1)
        self._cohort = sorted([first, *others[: count - 1]])
        self.recorder = self.encoder = _Recorder(self.encoder, first)
        self.sender = self.server.sender = _RecordingSender(self)
        self.other_bytes = 0, 0

    def cohort(self, number: int) -> list[int]:
        return self._cohort

    def apply(self, sections: Mapping[str, Tensor]) -> dict[str, int]:
        sizes = super().apply(sections)
        self.other_bytes = self.recorder.other_bytes, sum(sizes.values()) - sizes["change"]
        return sizes


class _Recorder(Encoder):
    def __init__(self, encoder: Encoder, client: int) -> None:
        super().__init__(encoder.uplink, encoder.feedback, encoder.fractions, encoder.layout, encoder.seed)
        self._client = client
        self.sent: list[Sent] = []
        self.other_bytes = 0

    def encode(
        self, job: Job, update: Update, sections: Mapping[str, Tensor], residual_mask: Tensor | None
    ) -> tuple[Message, Sparse, dict[str, Tensor]]:
        if job.client != self._client:
            return super().encode(job, update, sections, residual_mask)
        kept = dataclasses.replace(update, values=update.values.clone())
        self.sent.append(Sent(dataclasses.replace(job, state={}), kept, sections, residual_mask))
        found = super().encode(job, update, sections, residual_mask)
        report = found[0].report
        self.other_bytes = report.uplink_bytes - report.sizes["update"]
        return found


class _RecordingSender(Sender):
    def __init__(self, rounds: SyncRounds) -> None:
        super().__init__(rounds.downlink, "none")
        self._plan = rounds.plan
        self.published: list[Published] = []

    def encode(
        self, update: Tensor, layout: Layout, key: int = 0, *, within: Tensor | None = None
    ) -> tuple[Tensor, Sparse]:
        self.published.append(Published(update.clone(), self._plan.published, key))
        return super().encode(update, layout, key, within=within)
