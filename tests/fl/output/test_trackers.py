"""Experiment trackers. Oracles: metrics.csv and summary.json of the same run, and what a tracker of our own was told."""

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from accelerate import tracking
from accelerate.state import PartialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.output.record import read_metrics
from fl.output.trackers import TensorBoardLog
from fl.run.checks import check_options
from tests.support import on_ranks, resume_here, run_here

pytestmark = pytest.mark.slow

QUICK = {"rounds": 2, "limit_train": 100, "limit_test": 40, "uplink": "topk:0.1"}


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What event files say: values by step by name."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    told = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert all(len(dict(pairs)) == len(pairs) for pairs in told.values()), "a step is there twice"
    return {name: dict(pairs) for name, pairs in told.items()}


class Memory(tracking.GeneralTracker):
    """Remembers everything it is told, and fails in round `fails`."""

    name = "memory"
    requires_logging_directory = False
    calls: ClassVar[list[tuple[Any, ...]]] = []
    fails = -1

    def __init__(self, project: str, **keywords: Any) -> None:
        super().__init__()
        self.calls.append(("made", project, keywords, os.environ.get("MLFLOW_TRACKING_URI")))

    @property
    def tracker(self) -> Any:
        return self

    @property
    def info(self) -> Any:
        return self

    run_id = "abc"

    @tracking.on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.calls.append(("options", values))

    @tracking.on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if step == self.fails:
            raise OSError("no network")
        tracking.logger.debug("Accelerate's own trackers log like this")
        self.calls.append(("log", step, values))

    def finish(self) -> None:
        self.calls.append(("finish",))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> type[Memory]:
    """The tracker, registered under its own name and in the place of MLflow's."""
    monkeypatch.setattr(Memory, "calls", [])
    monkeypatch.setattr(tracking, "_available_trackers", ["mlflow"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("memory", "mlflow"):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Memory)
    return Memory


def test_event_files_equal_metrics_csv_also_after_a_resume(tmp_path: Path) -> None:
    """Every number of every row, to float32; an empty cell (no evaluation in round 0 and 2) is no event."""
    run_here(tmp_path, "run", tensorboard=True, eval_every=2, **QUICK)
    summary = resume_here(tmp_path, "run", rounds=4, tensorboard=True)
    told = scalars(tmp_path / "run" / "tensorboard")
    rows = read_metrics(tmp_path / "run")
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    assert sorted(told["val_accuracy"]) == [1, 3]
    for name in set(rows[0]) - {"round"}:
        expected = {int(row["round"] or 0): np.float32(row[name]) for row in rows if row[name] is not None}
        assert told.pop(name, {}) == expected, name
    assert {name for name in told if not name.startswith("summary/")} == set()
    assert told["summary/total_uplink_bytes"][3] == np.float32(summary["total_uplink_bytes"])


def test_rounds_that_are_run_again_replace_what_was_told_of_them(tmp_path: Path) -> None:
    """Killed after round 2, the checkpoint knows of round 0: rounds 1 and 2 come from the second file."""
    for first, values in ((0, [10, 11, 12]), (1, [21, 22])):
        log = TensorBoardLog(tmp_path, first)
        log.start()
        for step, value in enumerate(values, first):
            log.log({"bytes": value}, step)
        if first:
            log.finish()
    assert scalars(tmp_path)["bytes"] == {0: 10, 1: 21, 2: 22}


def test_a_tracker_is_told_options_rounds_and_summary_and_changes_nothing(tmp_path: Path, memory: Any) -> None:
    """The run ends in the same weights without it; Accelerate's process state is left as it was found."""
    before = dict(PartialState._shared_state)
    plain = run_here(tmp_path, "plain", **QUICK)
    summary = run_here(tmp_path, "told", track="memory", **QUICK)
    made, (_, options), *logs, total, finish = memory.calls
    assert made[1:3] == ("leanfed", {})
    assert (options["lr"], options["run_name"]) == (0.05, "told")
    for (_, step, values), row in zip(logs, read_metrics(tmp_path / "told"), strict=True):
        assert {"round": step, **values} == {name: value for name, value in row.items() if value is not None}
    assert (total[1], total[2]["summary/final_test_accuracy"]) == (1, summary["final_test_accuracy"])
    assert finish == ("finish",)
    assert summary["model_sha256"] == plain["model_sha256"]
    assert dict(PartialState._shared_state) == before


def test_mlflow_writes_into_the_run_folder_and_is_continued(tmp_path: Path, memory: Any) -> None:
    """A database of the run's own, known to this run alone; a resumed run goes on with the stored id, at round 2.

    Round 1 is told again: as the last one it was charged for the end of the run."""
    run_here(tmp_path, "run", track="mlflow", **QUICK)
    resume_here(tmp_path, "run", rounds=3, track="mlflow")
    made = [call for call in memory.calls if call[0] == "made"]
    assert [call[2]["run_id"] for call in made] == [None, "abc"]
    assert [call[3] for call in made] == [f"sqlite:///{tmp_path.resolve()}/run/mlflow.db"] * 2
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert [call[0] for call in memory.calls].count("options") == 1
    assert [call[1] for call in memory.calls if call[0] == "log"] == [0, 1, 1, 1, 2, 2]


def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in round 0 of two, is finished, and hears no more; metrics.csv and the other tracker have both rounds."""
    monkeypatch.setattr(memory, "fails", 0)
    with pytest.warns(UserWarning, match="tracker memory is left out from now on: OSError: no network"):
        run_here(tmp_path, "run", track="memory+tensorboard", **QUICK)
    assert [call[0] for call in memory.calls] == ["made", "options", "finish"]
    assert len(read_metrics(tmp_path / "run")) == 2
    assert len(scalars(tmp_path / "run" / "tensorboard")["train_loss"]) == 2
    assert "no network" in (tmp_path / "run" / "run.log").read_text()


def _on_a_rank(rank: int, world_size: int, folder: str) -> None:
    tracking.LOGGER_TYPE_TO_CLASS["memory"] = Memory
    run_here(Path(folder), "run", track="memory", **QUICK)
    assert [call[0] for call in Memory.calls] == ([] if rank else ["made", "options", "log", "log", "log", "finish"])


def test_rank_0_alone_tells(tmp_path: Path) -> None:
    """Two ranks: the other one makes no tracker, and nobody waits for it."""
    on_ranks(2, _on_a_rank, str(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"track": "wandb"}, "pip install wandb"),
        ({"track": "mlflow+comet_ml"}, "pip install mlflow"),
        ({"tensorboard": True}, r"--tensorboard: .* pip install 'leanfed\[track\]'"),
        ({"track": "tensorboard"}, r"--track tensorboard: .* pip install 'leanfed\[track\]'"),
        ({"track": "wandbb"}, "did you mean 'wandb'"),
        ({"track": ""}, "there is no tracker ''"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused_early(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence that says what to install, or what was meant."""
    monkeypatch.setattr(tracking, "_available_trackers", [])
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(ConfigError, match=words):
        check_options(Config(dataset="digits", **options))
