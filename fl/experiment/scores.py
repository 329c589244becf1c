"""What the runs of an experiment are compared by, known before the first of them starts."""

from collections.abc import Sequence

from fl.common.errors import ConfigError, DataError
from fl.data import load_dataset
from fl.training.tasks import make_task

from .matrix import Run
from .results import one_score
from .spec import Experiment


def check_scores(experiment: Experiment, runs: Sequence[Run]) -> None:
    """Load every data set that these runs name, once. DataError for one that cannot be read, with the arm's name;
    ConfigError if the tasks differ, or the target asks for another score."""
    scores = {}
    for run in runs:
        config = run.config
        if config.dataset not in scores:
            try:
                scores[config.dataset] = make_task(load_dataset(config, seed=run.seed, quiet=True)).score
            except (ConfigError, DataError) as error:
                raise type(error)(f"arm '{run.arm.name}', seed {run.seed}: {error}") from None
    one_score(experiment, scores.values())
