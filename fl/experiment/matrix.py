"""The matrix of runs: every arm with every seed, each with its options and its folder."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compression.spec import nearest
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.paths import expand, expand_paths

from .spec import Arm, Experiment


@dataclass(frozen=True)
class Run:
    """One cell of the matrix."""

    arm: Arm
    seed: int
    config: Config
    folder: Path

    @property
    def explicit(self) -> frozenset[str]:
        """Options that count as given by the user."""
        return frozenset(name for name, value in self.arm.given.items() if value is not None) | {"seed", "threads"}


def matrix(experiment: Experiment, *, data_dir: str, output_dir: str, threads: int | None) -> tuple[Run, ...]:
    """All runs, arm by arm and seed by seed in the file's order.

    The bits of a result depend on the number of threads, so it never depends on the machine: the file's, else
    `threads`, else 1. ConfigError if `threads` is less than 1 or is not what the file says.
    """
    data_dir, output_dir = expand(data_dir, "--data-dir"), expand(output_dir, "--output-dir")
    if threads is not None and threads < 1:
        raise ConfigError(f"--threads {threads} must be at least 1")
    for arm in experiment.arms:
        own = arm.given.get("threads")
        if threads is not None and own not in (None, threads):
            raise ConfigError(f"--threads {threads} contradicts the experiment file, which says {own}: leave it out")
    runs = []
    for arm in experiment.arms:
        for seed in experiment.seeds:
            config = expand_paths(Config(**arm.given))
            folder = Path(output_dir) / experiment.name / f"{arm.folder}-seed{seed}"
            config = dataclasses.replace(
                config,
                seed=seed,
                data_dir=data_dir,
                output_dir=str(folder.parent),
                run_name=folder.name,
                resume="auto",
                quiet=True,
                threads=threads or config.threads or 1,
                # A foreign hook's state cannot be saved: an interrupted run with one begins again.
                checkpoint_every=0 if config.hook else config.checkpoint_every,
            )
            runs.append(Run(arm, seed, config, folder))
    return tuple(runs)


def choose(experiment: Experiment, runs: tuple[Run, ...], only: Sequence[str], seeds: Sequence[int]) -> tuple[Run, ...]:
    """The runs of these arms and seeds; no names, or no seeds, means all. ConfigError if there is no such arm or seed."""
    names = [arm.name for arm in experiment.arms]
    for name in only:
        if name not in names:
            raise ConfigError(f"--only {name}: there is no such arm{nearest(name, names)}")
    for seed in seeds:
        if seed not in experiment.seeds:
            known = ", ".join(map(str, experiment.seeds))
            raise ConfigError(f"--seeds {seed}: the experiment's seeds are {known}")
    return tuple(run for run in runs if run.arm.name in (only or names) and run.seed in (seeds or experiment.seeds))
