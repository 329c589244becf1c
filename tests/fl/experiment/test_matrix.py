"""Which runs an experiment consists of. Oracle: the rules of docs/experiments.md."""

from typing import Any

import pytest

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.experiment.matrix import Run, choose, matrix
from fl.experiment.options import REFUSED, first_difference
from fl.experiment.spec import Experiment, parse_experiment
from tests.fl.experiment.test_spec import changed


def _matrix(threads: int | None = None, **keys: Any) -> tuple[Experiment, tuple[Run, ...]]:
    experiment = parse_experiment(changed(**keys))
    return experiment, matrix(experiment, data_dir="d", output_dir="out", threads=threads)


def test_every_arm_with_every_seed() -> None:
    """In the file's order; runs of an arm differ in seed and folder alone, arms also in what varies."""
    _, runs = _matrix()
    assert [(run.arm.name, run.seed) for run in runs] == [
        *(("dense", 0), ("dense", 3), ("topk 1 %", 0), ("topk 1 %", 3)),
    ]
    assert [str(run.folder) for run in runs][:2] == ["out/good/dense-seed0", "out/good/dense-seed3"]
    for run in runs:
        assert (run.config.seed, run.config.data_dir, run.config.resume) == (run.seed, "d", "auto")
        assert (run.config.output_dir, run.config.run_name) == (str(run.folder.parent), run.folder.name)
        assert run.config.threads == 1
    differing = {name for name, value in vars(runs[0].config).items() if value != getattr(runs[2].config, name)}
    assert differing == {"uplink", "lr", "run_name"}


def test_threads() -> None:
    """The command line's count is for files without one; a contradiction is refused."""
    assert _matrix(threads=2)[1][0].config.threads == 2
    base = {"dataset": "digits", "lr": 0.1, "threads": 3}
    assert _matrix(base=base)[1][0].config.threads == 3
    assert _matrix(base=base, threads=3)[1][0].config.threads == 3
    with pytest.raises(ConfigError, match=r"--threads 2 .*says 3"):
        _matrix(base=base, threads=2)
    with pytest.raises(ConfigError, match="--threads 0 must be at least 1"):
        _matrix(threads=0)


def test_a_choice_of_runs() -> None:
    """--only and --seeds; what does not exist is refused."""
    experiment, runs = _matrix()
    assert choose(experiment, runs, [], []) == runs
    assert choose(experiment, runs, ["topk 1 %"], [3]) == (runs[3],)
    with pytest.raises(ConfigError, match=r"--only topk 2 %.*did you mean 'topk 1 %'"):
        choose(experiment, runs, ["topk 2 %"], [])
    with pytest.raises(ConfigError, match=r"--seeds 1: .* 0, 3"):
        choose(experiment, runs, [], [1])


def test_a_foreign_hook_keeps_no_checkpoints() -> None:
    """Its state cannot be saved, so an interrupted run must be able to begin again."""
    base = {"lr": 0.1, "exchange": "hook", "hook": "tests.user_code:norm_model", "uplink": "none"}
    from fl.experiment import matrix as module

    experiment = Experiment("x", "", {}, (), (module.Arm("a", base, {}),), (0,), None)
    assert matrix(experiment, data_dir="d", output_dir="o", threads=None)[0].config.checkpoint_every == 0


def test_what_makes_two_runs_different() -> None:
    """Places, checkpoints, trackers and the device do not, as at resume; everything else does, the first in order is named;
    "auto" fits anything."""
    stored = Config(lr=0.1, rounds=4, precision="bf16")
    told: tuple[dict[str, Any], ...] = ({"tensorboard": True}, {"track": "wandb"}, {"device": "cpu"})
    places: tuple[dict[str, Any], ...] = (
        {"data_dir": "x"},
        {"checkpoint_every": 7},
        {"quiet": True},
        {"run_name": "x"},
    )
    for free in (*places, *told, {"precision": "auto"}):
        assert first_difference(stored, Config(**{"lr": 0.1, "rounds": 4, "precision": "bf16", **free})) is None
    wanted: dict[str, Any] = {"lr": 0.1, "rounds": 4, "precision": "bf16"}
    for name, value in {"rounds": 5, "lr": 0.2, "seed": 1, "threads": 2, "precision": "fp32"}.items():
        assert first_difference(stored, Config(**{**wanted, name: value})) == name
    assert set(REFUSED) == {"seed", "run_name", "resume", "quiet", "output_dir", "data_dir"}
