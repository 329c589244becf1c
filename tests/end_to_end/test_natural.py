"""Runs by the data's own groups. Oracles: the writers' sample counts, the same run on other ranks, the run's accuracy."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.experiment.options import first_difference
from fl.export import export_run
from fl.run.checks import resolve
from tests.end_to_end.test_resume import OPTIONS, stop_after
from tests.fl.data.test_femnist import arrays, write_archive
from tests.support import resume_here, rows, run_here, run_on_ranks

_SIZES = (12, 9, 20, 5, 1, 16)


def _options(folder: Path) -> dict[str, object]:
    write_archive(folder, **arrays(_SIZES))
    return {
        "dataset": "femnist",
        "data_dir": str(folder),
        "partition": "natural",
        "rounds": 2,
        "clients_per_round": 3,
        "local_epochs": 1,
        "batch_size": 4,
        "val_fraction": 0.25,
    }


def test_the_clients_are_the_writers(tmp_path: Path) -> None:
    """Without --clients all five of at least two samples take part, on one rank and on two alike, each with one to train
    on at least; the normalisation that is exported is the run's."""
    options = _options(tmp_path / "data")
    run_here(tmp_path, "one", **options)
    run_on_ranks(2, tmp_path, {"two": options})
    labels = json.loads((tmp_path / "one" / "partition.json").read_text())["labels"]
    totals = np.array(labels).sum(1)
    assert totals.sum() == 62 - round(62 * 0.25)
    assert (totals >= 1).all()
    assert (totals <= [12, 9, 20, 5, 16]).all()
    assert len(totals) == 5
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (config["clients"], config["clients_per_round"]) == (5, 3)
    models = [load_file(tmp_path / name / "final_model.safetensors") for name in ("one", "two")]
    assert all((tensor == models[1][name]).all() for name, tensor in models[0].items())
    assert rows(tmp_path / "one") == rows(tmp_path / "two")
    report = export_run(tmp_path / "one", bits=0)
    file = report["files"]["model.safetensors"]
    assert file["test_accuracy"] == pytest.approx(report["run_test_accuracy"], abs=1e-9)


def test_a_run_goes_on(tmp_path: Path) -> None:
    """Stopped after the first round and continued, with the number of clients that the data gave it."""
    plain = {**OPTIONS, "clients": None, "local_steps": None, "limit_train": 40}
    options = {**plain, **_options(tmp_path / "data")}
    run_here(tmp_path, "whole", **options)
    stop_after(tmp_path, "cut", 1, **options)
    resume_here(tmp_path, "cut")
    names = [tmp_path / name / "final_model.safetensors" for name in ("whole", "cut")]
    assert names[0].read_bytes() == names[1].read_bytes()
    assert rows(tmp_path / "whole") == rows(tmp_path / "cut")


def test_an_experiment_knows_its_run_again(tmp_path: Path) -> None:
    """What only the data can tell does not tell two runs apart; a number of clients that was asked for does."""
    config = Config(dataset="femnist", partition="natural")
    wanted = resolve(config, world_size=2, threads=1)
    assert (wanted.clients, wanted.clients_per_round) == (None, None)
    stored = dataclasses.replace(wanted, clients=5, clients_per_round=5)
    assert first_difference(stored, wanted) is None
    four = resolve(dataclasses.replace(config, clients=4), world_size=2, threads=1)
    assert first_difference(stored, four) == "clients"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"clients_per_round": 6}, "--clients-per-round 6 is more than --clients 5"),
        ({"clients": 6}, "only 5 of the 6 groups"),
        ({"dataset": "digits"}, "not --dataset digits"),
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    """One sentence, and no run folder."""
    with pytest.raises(ConfigError, match=says):
        run_here(tmp_path, "no", **{**_options(tmp_path / "data"), **changes})
    assert not (tmp_path / "no").exists()


def test_real_writers(real_data: Path, tmp_path: Path) -> None:
    """Eight of the 105 real writers for two rounds: no client's samples are more than a writer has, all are tested on."""
    options = {"dataset": "femnist", "data_dir": str(real_data), "partition": "natural", "clients": 8, "lr": 0.02}
    run_here(tmp_path, "real", **{**options, "rounds": 2, "batch_size": 8, "clients_per_round": 4})
    totals = np.array(json.loads((tmp_path / "real" / "partition.json").read_text())["labels"]).sum(1)
    assert len(totals) == 8
    assert 3 <= totals.min() <= totals.max() <= 165
    assert [float(row["train_loss"]) < 4.5 for row in rows(tmp_path / "real")] == [True, True]
