"""The experiments that come with the project. Oracle: the rules of docs/experiments.md, and what their comments promise."""

from pathlib import Path

import pytest

from fl.experiment.matrix import matrix
from fl.experiment.spec import Experiment, read_experiment
from fl.run.checks import check_options, resolve
from fl.training.schedule import parse_schedule
from tests.support import ROOT

FILES = sorted((ROOT / "experiments").glob("*.yaml"))


def _read(name: str) -> Experiment:
    return read_experiment(ROOT / "experiments" / f"{name}.yaml")


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_arm_can_run(file: Path) -> None:
    """Each arm of each file passes the checks before a run, by itself and on one rank; no two runs share a folder."""
    experiment = read_experiment(file)
    runs = matrix(experiment, data_dir="data", output_dir="out", threads=None)
    assert len(runs) == len(experiment.arms) * len(experiment.seeds)
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        check_options(run.config, run.explicit)
        resolved = resolve(run.config, world_size=1, threads=1, explicit=run.explicit)
        assert resolved.clients is None or resolved.clients >= (resolved.clients_per_round or 1)
    assert experiment.description, "a report begins with a sentence on what was compared"


def test_experiments_have_different_names() -> None:
    """Names are folders: of two experiments with one name, the second would be refused at the first's runs."""
    names = [read_experiment(file).name for file in FILES]
    assert len(set(names)) == len(names)


def test_fresh_seeds_of_the_ablation() -> None:
    """The arm of the other file, and no seed of its."""
    (fresh,) = _read("mnist_ablation_fresh").arms
    chosen = next(arm for arm in _read("mnist_ablation").arms if arm.name == "FedDyn")
    assert fresh.given == chosen.given
    assert not set(_read("mnist_ablation_fresh").seeds) & set(_read("mnist_ablation").seeds)


def test_published_settings_of_the_adaptive_experiment() -> None:
    """Reddi et al. (2020), section 5 and appendix: CIFAR-10 rates 10^-1.5 and 10^-2, tau 10^-3, FedAvg 10^-0.5."""
    experiment = _read("gpu_adaptive")
    base, arms = experiment.base, {arm.name: arm.varied for arm in experiment.arms}
    assert (base["clients"], base["clients_per_round"], base["dataset"]) == (500, 10, "benchmarks.equal_dirichlet:load")
    assert (base["rounds"], base["local_epochs"], base["batch_size"], base["norm"]) == (4000, 1, 20, "group")
    assert base["tau"] == pytest.approx(1e-3)
    for name in ("FedYogi", "FedAdam"):
        assert (arms[name]["lr"], arms[name]["server_lr"]) == (pytest.approx(10**-1.5, rel=1e-2), 10**-2)
    assert (arms["FedAvg"]["lr"], arms["FedAvg"]["server_lr"]) == (pytest.approx(10**-0.5, rel=1e-2), 1)


def test_server_optimizers_are_the_five() -> None:
    """Each once, under the published partition."""
    experiment = _read("server_optimizers")
    servers = [arm.varied["server"] for arm in experiment.arms]
    assert servers == ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"]
    assert experiment.base["partition"] == "dirichlet:0.1"


def test_steps_are_timed_apart() -> None:
    """With one step a round, training time is that of a step and exchange time that of one exchange."""
    base = _read("cifar10_compression").base
    assert base["local_steps"] == 1
    assert "mode" not in base


def test_a_cosine_slice_cannot_be_stretched() -> None:
    """Slices of the GPU runs go on with the same number of rounds, on which the cosine depends."""
    base = _read("gpu_resnet18").base
    assert parse_schedule(base["lr_schedule"]).name == "cosine"
    assert base["rounds"] % base["checkpoint_every"] == 0
