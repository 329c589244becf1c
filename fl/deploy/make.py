"""The rounds of a run across sites."""

from fl.common.mode import mode_of
from fl.rounds.sampling import make_sampler
from fl.training.worker import Worker

from .rounds import Engine, SiteRounds
from .sync import SyncSiteRounds
from .timed import TimedSiteRounds


def make_rounds(worker: Worker, engine: Engine) -> SiteRounds:
    """The rounds of the mode that the options ask for; ConfigError for a sampling that cannot work there."""
    sampler = make_sampler(worker.config, worker.sizes)
    kind = TimedSiteRounds if mode_of(worker.config).name in ("buffered", "async") else SyncSiteRounds
    return kind(worker, sampler, engine)
