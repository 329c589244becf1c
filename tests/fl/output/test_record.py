"""The run folder's tables and summary."""

import logging

import pytest

from fl.common.errors import ConfigError, DataError
from fl.output.layers import LAYERS
from fl.output.record import Record, _LogFile, metrics_columns, read_metrics
from fl.output.summary import write_summary
from fl.run.folder import begun_with
from fl.training.tasks import Classification, Regression

TASK = Classification(3)


def row(round_: int, val: float | None, test: float | None) -> dict:
    values = dict.fromkeys(metrics_columns(TASK), 1.0)
    values.update(round=round_, val_accuracy=val, test_accuracy=test, uplink_bytes=10, uplink_dense_bytes=1000)
    values.update(downlink_bytes=50, downlink_dense_bytes=100, time_s=0.1 + round_, train_loss=1 / 3)
    return values


def test_rows_are_on_disk_at_once_and_read_back_exactly(tmp_path):
    """1/3 survives the file; an empty cell is None; the log has a line for the round."""
    record = Record(tmp_path, TASK)
    record.add_round(row(0, None, 0.25), [{"round": 0, "client": 2}])
    assert read_metrics(tmp_path)[0]["train_loss"] == 1 / 3
    assert read_metrics(tmp_path)[0]["val_accuracy"] is None
    assert (tmp_path / "clients.csv").read_text().splitlines()[1].startswith("0,2,")
    record.close()
    assert "round 0" in (tmp_path / "run.log").read_text()


def test_a_continued_record_drops_rows_after_the_checkpoint(tmp_path):
    """Rows 0 and 1 were written, the checkpoint knows of row 0: row 1 is written anew."""
    record = Record(tmp_path, TASK)
    record.add_round(row(0, 0.1, 0.1), [])
    sizes = record.so_far()
    record.add_round(row(1, 0.2, 0.2), [])
    record.close()
    record = Record(tmp_path, TASK, sizes)
    record.add_round(row(1, 0.3, 0.3), [])
    record.close()
    assert [metrics["val_accuracy"] for metrics in read_metrics(tmp_path)] == [0.1, 0.3]


@pytest.mark.parametrize("name", ["metrics.csv", "clients.csv"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: None, "is missing"),
        (lambda data: b"", "lacks what it held"),
        (lambda data: data[: len(data) // 2], "lacks what it held"),
        (lambda data: data[data.index(b"\n") + 1 :], "lacks what it held"),
        (lambda data: data.replace(b"\r\n", b"\n"), "lacks what it held"),
        (lambda data: data.replace(b"\r\n", b"\n") + b"1,2,3\n", "has changed"),
        (lambda data: data[:-3] + b"7" + data[-2:], "has changed"),
        (lambda data: b"\0" * len(data), "has changed"),
    ],
)
def test_a_table_that_is_not_what_it_was_is_not_continued(tmp_path, name, damage, says):
    """Rows lost, a first line lost, other ends of lines, another digit. Told by name, and no file has changed."""
    record = Record(tmp_path, TASK)
    record.add_round(row(0, 0.1, 0.1), [{"round": 0, "client": 2, "staleness": 1}])
    kept = record.so_far()
    record.add_round(row(1, 0.1, 0.1), [])
    record.close()
    damaged = damage((tmp_path / name).read_bytes()[: kept[name].bytes])
    (tmp_path / name).unlink()
    if damaged is not None:
        (tmp_path / name).write_bytes(damaged)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match=f"{name} {says} since the last checkpoint"):
        Record(tmp_path, TASK, kept)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_without_a_table_is_not_continued(tmp_path):
    """Instead of starting that table anew."""
    record = Record(tmp_path, TASK)
    record.close()
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(DataError, match=r"does not know of .*metrics\.csv"):
        Record(tmp_path, TASK, {})
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_layers_are_a_table_of_their_own(tmp_path):
    """With layers.csv its length is kept and cut too; without it there is no file."""
    folder, plain = tmp_path / "layers", tmp_path / "plain"
    for path, layers in ((folder, True), (plain, False)):
        path.mkdir()
        record = Record(path, TASK, layers=layers)
        record.add_round(row(0, 0.1, 0.1), [], [{"round": 0, "layer": "a"}, {"round": 0, "layer": "b"}])
        sizes = record.so_far()
        record.add_round(row(1, 0.2, 0.2), [], [{"round": 1, "layer": "a"}])
        record.close()
        Record(path, TASK, sizes, layers=layers).close()
    lines = (folder / "layers.csv").read_text().splitlines()
    assert lines == [",".join(LAYERS), "0,a,,,,,,", "0,b,,,,,,"]
    assert not (plain / "layers.csv").exists()
    assert "layers.csv" not in sizes


def test_summary_chooses_the_best_round_on_validation_alone(tmp_path):
    """Validation is best in round 1 (tied with 3: the earlier one counts), where the test accuracy is the worst."""
    record = Record(tmp_path, TASK)
    for round_, (val, test) in enumerate([(0.5, 0.9), (0.8, 0.1), (0.6, 0.95), (0.8, 0.7)]):
        record.add_round(row(round_, val, test), [])
    record.close()
    summary = write_summary(tmp_path, model_sha256="x", parameters=7, extra={"launcher": "python"})
    assert (summary["best_val_round"], summary["best_val_test_accuracy"]) == (1, 0.1)
    assert summary["final_test_accuracy"] == 0.7
    assert (summary["total_uplink_bytes"], summary["uplink_ratio"], summary["downlink_ratio"]) == (40, 100.0, 2.0)
    assert summary["seconds"] == pytest.approx(6.4)


def test_a_regression_has_its_own_score(tmp_path):
    """The best round is that of the best validation R2, also below 0; the other metrics are those of the last evaluation."""
    task = Regression(0.0, 1.0)
    record = Record(tmp_path, task, client_eval=True)
    for round_, (val, test) in enumerate([(-3.0, 0.2), (-0.5, 0.1), (-1.0, 0.3), (None, None)]):
        values = dict.fromkeys(metrics_columns(task, clients=True), 1.0)
        values.update(round=round_, val_r2=val, test_r2=test, test_mae=None if val is None else 10.0 + round_)
        values.update(client_r2=None if val is None else 0.25 * round_)
        values.update(dict.fromkeys(("val_loss", "test_loss"), None if val is None else 1.0))
        record.add_round(values, [], None, [{"round": round_, "client": 0, "samples": 4, "score": 0.5, "loss": 2.0}])
    sizes = record.so_far()
    record.close()
    summary = write_summary(tmp_path, model_sha256="x", parameters=7, extra={})
    assert (summary["best_val_round"], summary["best_val_r2"], summary["best_val_test_r2"]) == (1, -0.5, 0.1)
    assert (summary["final_test_r2"], summary["final_test_mae"], summary["final_client_r2"]) == (0.3, 12.0, 0.5)
    assert not [name for name in summary if "accuracy" in name]
    assert (tmp_path / "client_eval.csv").read_text().splitlines()[1] == "0,0,4,0.5,2.0"
    assert sizes["client_eval.csv"].bytes == (tmp_path / "client_eval.csv").stat().st_size
    assert "val_r2 -0.5000, test_r2 0.1000" in (tmp_path / "run.log").read_text()


def test_final_is_the_last_evaluation_also_where_it_has_no_score(tmp_path):
    """Round 1 was evaluated after the model had diverged: a loss, and no R2; round 2 was not evaluated. Round 0 is the best,
    and its scores are not final ones."""
    task = Regression(0.0, 1.0)
    record = Record(tmp_path, task, client_eval=True)
    judged = [
        name for name in metrics_columns(task, clients=True) if name.startswith(("val_", "test_", "client_", "worst"))
    ]
    judged.remove("client_memory_bytes")
    for round_, loss, score in ((0, 1.0, 0.5), (1, float("inf"), None), (2, None, None)):
        values = dict.fromkeys(metrics_columns(task, clients=True), 1.0) | dict.fromkeys(judged, score)
        record.add_round(values | {"round": round_, "val_loss": loss, "test_loss": loss}, [])
    record.close()
    summary = write_summary(tmp_path, model_sha256="x", parameters=7, extra={})
    assert (summary["best_val_round"], summary["best_val_r2"], summary["best_val_test_r2"]) == (0, 0.5, 0.5)
    assert {name: value for name, value in summary.items() if name.startswith("final_")} == {
        f"final_{name}": None for name in judged
    }


def test_a_log_on_a_full_disk(capsys):
    """Lines are lost; nothing is raised, at the end neither, and nothing printed."""
    handler = _LogFile("/dev/full")
    handler.emit(logging.makeLogRecord({"msg": "words"}))
    handler.close()
    assert capsys.readouterr() == ("", "")


def test_without_partition_json_nothing_is_known(tmp_path):
    """The checkpoint says that there was one."""
    assert begun_with(tmp_path) == {}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "7", '"samples_sha256"', '["files_sha256"]', '{"labels": [', "[" * 100_000]
    + [f'{{"{name}": {value}}}' for name in ("samples_sha256", "files_sha256") for value in ("7", "[]", "null")],
)
def test_a_damaged_partition_json_is_told_in_one_sentence(tmp_path, text):
    """As a disk that was full, or a hand, may leave it."""
    (tmp_path / "partition.json").write_text(text)
    with pytest.raises(ConfigError, match=r"partition\.json is damaged"):
        begun_with(tmp_path)
