"""Experiments, really run on digits. Oracle: the uninterrupted experiment, and the runs made one by one."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError
from fl.experiment import read_experiment, run_experiment
from fl.experiment.__main__ import main
from fl.experiment.results import TIMES
from tests.end_to_end.experiments import CELLS, FILE, perform, replace_run, rows, write
from tests.support import PYTHON, ROOT, environment, on_ranks, run_here, torchrun


def without_times(folder: Path) -> bytes:
    """results.csv with its time columns, the last ones, cut off."""
    lines = (folder / "results.csv").read_bytes().split(b"\n")
    return b"\n".join(line.rsplit(b",", len(TIMES))[0] for line in lines)


def assert_same_results(one: Path, other: Path) -> None:
    """Equal to the byte, except times."""
    assert without_times(one) == without_times(other)
    assert (one / "curves.csv").read_bytes() == (other / "curves.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the uninterrupted experiment, whose runs count as drawn."""
    folder = perform(tmp_path_factory.mktemp("whole"))
    for summary in folder.glob("*/summary.json"):
        summary.with_name("report.html").touch()
    return folder


def test_results_are_those_of_the_runs(whole: Path, tmp_path: Path) -> None:
    """One row per arm and seed, in the file's order; each run is the one that its options alone would give."""
    found = rows(whole)
    assert [(row["arm"], row["seed"], row["uplink"], row["model"]) for row in found] == [
        (arm, str(seed), options["uplink"], options.get("model", "lenet5"))
        for arm, options in FILE["arms"].items()
        for seed in FILE["seeds"]
    ]
    alone = run_here(tmp_path, "alone", **{**FILE["base"], "uplink": "topk:0.1", "seed": 1, "resume": None})
    row = found[3]
    assert row["model_sha256"] == alone["model_sha256"]
    for column in ("final_test_accuracy", "final_val_accuracy", "best_val_test_accuracy", "uplink_ratio"):
        assert float(row[column]) == alone[column]
    for column in ("uplink_bytes", "downlink_bytes"):
        assert int(row[column]) == alone[f"total_{column}"]
    assert float(found[0]["target_val_accuracy"]) == pytest.approx(
        (float(found[0]["final_val_accuracy"]) + float(found[1]["final_val_accuracy"])) / 2 - 0.1
    )
    assert {path.name for path in whole.iterdir() if path.is_file()} == {
        *("results.csv", "curves.csv", "report.html", "report.md", "accuracy.png"),
    }
    assert json.loads((whole / "dense-seed0" / "machine.json").read_text())["cpu"] in (whole / "report.md").read_text()


def test_a_second_experiment_has_the_same_csv(whole: Path, tmp_path: Path) -> None:
    """Run anew from the file alone: the same bytes, except times."""
    assert_same_results(perform(tmp_path), whole)


def test_what_is_finished_is_not_repeated(whole: Path, count: list[str], tmp_path: Path) -> None:
    """The same command again starts no run and writes the same files, times included, where it is told to."""
    experiment = read_experiment(write(tmp_path))
    results = run_experiment(experiment, output_dir=str(whole.parent), results=str(tmp_path / "results"))
    assert count == []
    assert results is not None
    assert len(results.rows) == CELLS
    for name in ("results.csv", "curves.csv", "report.md"):
        assert (tmp_path / "results" / name).read_bytes() == (whole / name).read_bytes()


def test_a_choice_then_the_rest(whole: Path, count: list[str], tmp_path: Path) -> None:
    """--only and --seeds first: the target waits for its arm; in the end all is as if run at once."""
    folder = perform(tmp_path, only=["topk 10 %"], seeds=[1])
    assert count == ["topk_10-seed1"]
    assert [(row["arm"], row["seed"], row["target_val_accuracy"]) for row in rows(folder)] == [("topk 10 %", "1", "")]
    assert "Not finished yet" in (folder / "report.md").read_text()
    perform(tmp_path)
    assert len(count) == CELLS
    assert len(set(count)) == CELLS
    assert_same_results(folder, whole)


@pytest.mark.parametrize("finished", [0, 2])
def test_a_failure_in_the_middle(whole: Path, tmp_path: Path, finished: int) -> None:
    """The third run fails in some round: two rows are there, and the same command goes on in that run, at that round."""
    from fl.training.trainer import ClientTrainer

    train, names = ClientTrainer.train, []

    def failing(self: Any, job: Any, model: Any) -> Any:
        names.append((job.client, job.number))
        if names.count((0, 0)) == 3 and job.number == finished:
            raise OSError("stopped here")
        return train(self, job, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientTrainer, "train", failing)
        with pytest.raises(OSError, match="stopped here"):
            perform(tmp_path)
    folder = tmp_path / "out" / "tiny"
    assert len(rows(folder)) == 2
    with pytest.MonkeyPatch.context() as patch:
        names.clear()

        def watching(self: Any, job: Any, model: Any) -> Any:
            names.append((job.client, job.number))
            return train(self, job, model)

        patch.setattr(ClientTrainer, "train", watching)
        perform(tmp_path)
    assert names[0] == (0, finished)
    assert len([name for name in names if name[0] == 0]) == (CELLS - 2) * FILE["base"]["rounds"] - finished
    assert_same_results(folder, whole)


def test_kill_nine_and_go_on(whole: Path, tmp_path: Path) -> None:
    """The process is killed once the second run has begun; the command, given again, ends in the same results."""
    command = [*PYTHON, "-m", "fl.experiment", str(write(tmp_path)), "--output-dir", str(tmp_path / "out")]
    folder = tmp_path / "out" / "tiny"
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while not (folder / "dense-seed1" / "config.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    perform(tmp_path)
    assert_same_results(folder, whole)


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"lr": 0.2}, ["lr 0.1", "lr 0.2", "dense-seed0"]),
        ({"rounds": 5}, ["rounds 3", "rounds 5"]),
        ({"momentum": 0.0}, ["momentum 0.9", "momentum 0.0"]),
        ({"local_steps": 2}, ["local_epochs 1", "local_epochs None"]),
    ],
)
def test_a_run_with_other_options_is_refused(
    whole: Path, count: list[str], tmp_path: Path, base: dict[str, Any], words: list[str]
) -> None:
    """An option that the file has changed, or has begun to set, is named with both values; nothing is run or written."""
    experiment = read_experiment(write(tmp_path, base={**FILE["base"], **base}))
    before = (whole / "results.csv").stat().st_mtime_ns
    with pytest.raises(ConfigError) as caught:
        run_experiment(experiment, output_dir=str(whole.parent))
    for word in words:
        assert word in str(caught.value)
    with pytest.raises(ConfigError, match=r"threads 1, but .* threads 2"):
        run_experiment(read_experiment(write(tmp_path)), output_dir=str(whole.parent), threads=2)
    assert count == []
    assert (whole / "results.csv").stat().st_mtime_ns == before


def test_an_option_that_is_no_longer_set_is_refused(whole: Path, tmp_path: Path) -> None:
    """The run was made with batch_size 16; the file now means the default."""
    base = {name: value for name, value in FILE["base"].items() if name != "batch_size"}
    with pytest.raises(ConfigError, match=r"batch_size 16, but .* batch_size 64"):
        run_experiment(read_experiment(write(tmp_path, base=base)), output_dir=str(whole.parent))


def test_pictures_that_a_kill_prevented_are_drawn(whole: Path, tmp_path: Path) -> None:
    """A finished run without report.html: started again, the experiment draws it, and repeats nothing."""
    folder = tmp_path / "out" / "tiny"
    shutil.copytree(whole, folder)
    run = folder / "dense-seed1"
    (run / "report.html").unlink()
    before = (run / "metrics.csv").read_bytes()
    run_experiment(read_experiment(write(tmp_path)), output_dir=str(tmp_path / "out"))
    assert "</html>" in (run / "report.html").read_text()
    assert (run / "metrics.csv").read_bytes() == before


def _perform_on_ranks(rank: int, world_size: int, folder: Path, stop: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if stop:

            def fail(config: Any) -> None:
                if config.run_name == "topk_10-seed1":
                    raise KeyboardInterrupt

            replace_run(patch, fail)
            with pytest.raises(KeyboardInterrupt):
                perform(folder)
            return
        perform(folder)


def test_on_ranks(whole: Path, tmp_path: Path) -> None:
    """In a group of two ranks that exists: interrupted, continued, and the same results as on one."""
    tmp_path.joinpath("out").mkdir()
    on_ranks(2, _perform_on_ranks, tmp_path, True)
    assert len(rows(tmp_path / "out" / "tiny")) == 3
    on_ranks(2, _perform_on_ranks, tmp_path, False)
    assert_same_results(tmp_path / "out" / "tiny", whole)


def test_torchrun(whole: Path, tmp_path: Path) -> None:
    """Two ranks: several runs in one process, the same bits as on one, one table; a mistake is one line, told once."""
    arms = {name: FILE["arms"][name] for name in ("dense", "topk 10 %")}
    path = write(tmp_path, arms=arms, vary=["uplink"], seeds=[0])
    results = tmp_path / "out" / "tiny"

    def start(*options: str) -> subprocess.CompletedProcess[str]:
        command = [*torchrun(2), "-m", "fl.experiment", str(path), "--output-dir", str(tmp_path / "out"), *options]
        return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)

    done = start("--data-dir", "data")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Whole run") == 1
    hashes = {row["arm"]: row["model_sha256"] for row in rows(whole) if row["seed"] == "0"}
    assert {row["arm"]: row["model_sha256"] for row in rows(results)} == {name: hashes[name] for name in arms}
    refused = start("--threads", "2")
    assert refused.returncode != 0
    assert refused.stderr.count("error: ") == 1


def test_the_command_shows_the_tables(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the console and in the folder of --results."""
    main([str(write(tmp_path)), "--output-dir", str(whole.parent), "--results", str(tmp_path / "shown")])
    shown = capsys.readouterr().out
    for word in ("Whole run", "validation accuracy", "topk 10 %", str(tmp_path / "shown")):
        assert word in shown
