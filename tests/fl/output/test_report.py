"""The pictures of a run.

Oracles: the PNG header of each file (size and resolution), and the numbers of a synthetic run folder, computed here
by hand and compared with what lies on the axes.
"""

import base64
import csv
import io
import logging
import os
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from fl.data import Split
from fl.output import report
from fl.output.figures import accuracy, dashboard, judgements, partition, style, timeline, timing, traffic
from fl.output.figures.run_data import read_run
from fl.output.predictions import read_predictions, write_predictions
from fl.output.report import FILE_DPI, write_report
from fl.training.evaluate import Evaluation
from fl.training.tasks import Classification
from tests.fl.output.figures.run_folder import METRICS, NAMES, axes_of, line, make_run

pytestmark = pytest.mark.slow


def header(path: Path) -> tuple[int, int, int]:
    """Width and height in pixels, and pixels per metre, read from the PNG's own IHDR and pHYs chunks."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    at = data.index(b"pHYs")
    return width, height, struct.unpack(">I", data[at + 4 : at + 8])[0]


def test_six_pictures_at_300_dpi(tmp_path: Path) -> None:
    """300 dpi is 11,811 pixels per metre; every figure is at least 2,400 pixels wide."""
    paths = write_report(make_run(tmp_path / "run"), dpi=FILE_DPI)
    assert [path.name for path in paths] == NAMES
    for path in paths:
        width, height, resolution = header(path)
        assert resolution == 11_811
        assert width >= 2400
        assert height >= 1500


def test_a_report_without_files_of_figures(tmp_path: Path) -> None:
    """The page alone is written, with the dashboard in it as it is without a file: 1,500 pixels wide, less rounding."""
    folder = make_run(tmp_path / "run")
    before = {path.name for path in folder.iterdir()}
    assert write_report(folder) == []
    assert {path.name for path in folder.iterdir()} - before == {"report.html"}
    (encoded,) = re.findall(r'base64,([^"]*)"', (folder / "report.html").read_text())
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
        assert image.width == 18 * 83


@pytest.mark.parametrize(
    "cells",
    [
        {"val_loss": "", "val_accuracy": ""},
        {"val_loss": "", "val_accuracy": "", "test_accuracy": "", "train_loss": "nan"},
        {"uplink_bytes": 0, "downlink_bytes": 0, "uplink_dense_bytes": 0, "downlink_dense_bytes": 0},
        {"train_s": 0, "exchange_s": 0, "eval_s": 0, "time_s": 0, "test_accuracy": 1.0, "val_accuracy": 1.0},
    ],
)
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.filterwarnings("error")
def test_sparse_runs_do_not_crash(tmp_path: Path, rounds: int, cells: dict[str, Any]) -> None:
    """One round, no validation, nothing sent: six pictures all the same, and not even a warning."""
    assert len(write_report(make_run(tmp_path / "run", rounds=rounds, **cells), dpi=30)) == 6


@pytest.mark.filterwarnings("error")
def test_only_metrics_and_not_a_single_round(tmp_path: Path) -> None:
    """The least there can be: a header; a name with dollar signs is no formula."""
    folder = tmp_path / "run_$x_{"
    folder.mkdir()
    (folder / "metrics.csv").write_text(METRICS + "\n")
    assert len(write_report(folder, dpi=30)) == 6


@pytest.mark.filterwarnings("error")
def test_many_clients_many_rounds(tmp_path: Path) -> None:
    """150 clients and 150 rounds: a heat map without written numbers, steps instead of bars, one outline for all clients."""
    folder = make_run(tmp_path / "run", rounds=150, clients=150)
    assert len(write_report(folder, dpi=30)) == 6
    run = read_run(folder)
    assert not axes_of(partition.draw_partition, run).texts
    (outline,) = axes_of(partition.draw_partition, run).figure.axes[-1].collections
    totals = 100 * np.arange(150) + 45
    corners = {(x, y) for c, total in enumerate(totals) for x in (c - 0.5, c + 0.5) for y in (0, total)}
    assert {tuple(corner) for corner in outline.get_paths()[0].vertices} == corners
    assert not axes_of(timing.draw_time_per_round, run).patches


def test_accuracy_against_bytes(tmp_path: Path) -> None:
    """Cumulative 1, 3, 6, 10 MB on a log axis; dense would have been 160 MB, 16 times as much."""
    axes = axes_of(accuracy.draw_accuracy_vs_bytes, read_run(make_run(tmp_path / "run")))
    assert axes.get_xscale() == "log"
    for label, values in (("validation", [0.5, 0.59, 0.68, 0.67]), ("test", [0.4, 0.5, 0.6, 0.7])):
        np.testing.assert_allclose(line(axes, label).get_xdata(), [1, 3, 6, 10])
        np.testing.assert_allclose(line(axes, label).get_ydata(), values)
    best = line(axes, "best on validation (round 2)")
    assert (best.get_xdata()[0], best.get_ydata()[0]) == (6, pytest.approx(0.68))
    vertical = [item for item in axes.get_lines() if list(item.get_xdata()) == [160, 160]]
    assert len(vertical) == 1
    assert any("160 MB (16x)" in text.get_text() for text in axes.texts)
    low, high = axes.get_xlim()
    assert low < 1 < 160 < high


def test_rounds_without_evaluation_are_joined_over(tmp_path: Path) -> None:
    """Evaluated at rounds 1 and 3 only: two points, at x = 1 and 3."""
    folder = make_run(tmp_path / "run")
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    for row in rows[::2]:
        row.update(val_loss="", val_accuracy="", test_accuracy="")
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS.split(","))
        writer.writeheader()
        writer.writerows(rows)
    axes = axes_of(accuracy.draw_accuracy_vs_round, read_run(folder))
    assert list(line(axes, "test").get_xdata()) == [1, 3]


def test_bytes_time_and_partition_show_the_numbers(tmp_path: Path) -> None:
    """MB = 10^6 bytes; bars stack to 4.75 + t seconds; the map holds the counts, classes down, clients across."""
    run = read_run(make_run(tmp_path / "run"))
    axes = axes_of(traffic.draw_bytes_per_round, run)
    np.testing.assert_allclose(line(axes, "uplink (16x less)").get_ydata(), [1, 2, 3, 4])
    np.testing.assert_allclose(line(axes, "downlink").get_ydata(), [40] * 4)
    np.testing.assert_allclose(line(axes, "dense, either way").get_ydata(), [40] * 4)

    axes = axes_of(timing.draw_time_per_round, run)
    for color, height in ((style.GREEN, 4.5), (style.GREY, 4.75)):
        bars = [bar for bar in axes.patches if to_hex(bar.get_facecolor()) == color]
        np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in bars], height + np.arange(4))

    axes = axes_of(partition.draw_partition, run)
    assert axes.images[0].get_array().tolist() == [[10 * c + k for c in range(3)] for k in range(10)]
    assert "29" in {text.get_text() for text in axes.texts}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("clients", [1, 3, 200])
def test_a_timeline_is_drawn_where_there_is_virtual_time(tmp_path: Path, clients: int) -> None:
    """A row for each of at most 40 clients; who was dropped never arrived and has no bars."""
    folder = make_run(tmp_path / "run")
    write_times(folder, clients)
    times = read_run(folder).times
    assert times is not None
    assert times.arrive.tolist() == [c + 4.0 for c in range(clients)]
    figure = timeline.draw_timeline(read_run(folder))
    assert len(figure.axes[0].collections) == 3 * min(clients, 40)
    assert style.png(figure, 30)


@pytest.mark.filterwarnings("error")
def test_a_timeline_is_one_more_picture(tmp_path: Path) -> None:
    """Beside the six that every run has."""
    folder = make_run(tmp_path / "run")
    write_times(folder, 3)
    assert [path.name for path in write_report(folder, dpi=30)] == [*NAMES, "timeline.png"]


def write_times(folder: Path, clients: int) -> None:
    """A clients.csv of one round with virtual time, and of a client that was dropped."""
    columns = "round,client,rank,samples,train_s,uplink_bytes,downlink_bytes,start_s,ready_s,sent_s,arrive_s,staleness"
    lines = [f"0,{c},0,5,0.1,9,9,0.0,{c + 1},{c + 2},{c + 4},0" for c in range(clients)]
    (folder / "clients.csv").write_text("\n".join([columns, *lines, "0,999,0,0,,9,9,,,,,"]) + "\n")


def test_key_figures(tmp_path: Path) -> None:
    """Best is chosen on validation (round 2) though test was higher in round 3; 25 s = 4 * 4.75 + 6."""
    run = read_run(make_run(tmp_path / "run"))
    cards = {caption: (value, small) for caption, value, small in dashboard.key_figures(run)}
    assert cards["Test accuracy, last"] == ("70.00%", "round 3")
    assert cards["Test accuracy, best on validation"] == ("60.00%", "round 2, validation 68.00%")
    assert cards["Uplink"] == ("10 MB", "16x less than dense (160 MB)")
    assert cards["Downlink"] == ("160 MB", "dense: 160 MB")
    assert cards["Time"] == ("25 s", "4 rounds, 3 clients, 2 ranks")


def test_a_regression_is_told_by_its_r2(tmp_path: Path) -> None:
    """Files, axes and key figures; the first round, far below 0, does not press the others into a line."""
    folder = make_run(tmp_path / "run")
    text = (folder / "metrics.csv").read_text().replace("val_accuracy", "val_r2").replace("test_accuracy", "test_r2")
    (folder / "metrics.csv").write_text(text.replace("2.1,0.5,0.4", "2.1,-50,-40"))
    (folder / "partition.json").write_text('{"labels": [[10], [20], [30]]}')
    run = read_run(folder)
    axes = axes_of(accuracy.draw_accuracy_vs_round, run)
    assert axes.get_ylabel() == "R2"
    assert axes.get_ylim() == (-1.0, pytest.approx(1.01))
    assert line(axes, "validation").get_ydata()[0] == -50
    cards = {caption: value for caption, value, _ in dashboard.key_figures(run)}
    assert (cards["Test R2, last"], cards["Test R2, best on validation"]) == ("0.7000", "0.6000")
    assert [bar.get_height() for bar in axes_of(partition.draw_partition, run).patches] == [10, 20, 30]
    names = [path.name for path in write_report(folder, dpi=30)]
    assert names == ["r2_vs_round.png", "r2_vs_bytes.png", *NAMES[2:]]


@pytest.mark.filterwarnings("error")
def test_figures_of_predictions_and_of_clients(tmp_path: Path) -> None:
    """Drawn where their files are: shares of the true class, the line of perfect predictions, clients by score."""
    folder = make_run(tmp_path / "run")
    (folder / "confusion.csv").write_text("class,cat,$dog_{\ncat,3,1\n$dog_{,0,0\n")
    (folder / "predictions.csv").write_text("target,prediction\n1.0,1.5\n4.0,3.0\n")
    scores = "".join(f"{t},{c},{c + 1},{c / 20 + t / 100},1.0\n" for t in (0, 1) for c in range(19))
    (folder / "client_eval.csv").write_text(f"round,client,samples,score,loss\n{scores}1,19,5,,1.0\n")
    run = read_run(folder)
    figures = judgements.draw_judgements(run, folder)
    assert set(figures) == {"confusion", "prediction", "clients"}
    shares = figures["confusion"].axes[0].get_images()[0].get_array()
    assert np.asarray(shares).tolist() == [[0.75, 0.25], [0, 0]]
    axes = figures["prediction"].axes[0]
    assert axes.get_lines()[0].get_xydata().tolist() == [[1, 1.5], [4, 3]]
    assert axes.get_xlim() == axes.get_ylim()
    axes = figures["clients"].axes[0]
    heights = sorted(bar.get_height() for bar in axes.patches)
    assert heights == pytest.approx([c / 20 + 0.01 for c in range(19)])  # of the last round, those that have one
    mean = sum((c + 1) * (c / 20 + 0.01) for c in range(19)) / sum(range(1, 20))
    assert line(axes, "mean by samples").get_ydata()[0] == pytest.approx(mean)
    drawn = write_report(folder, dpi=30)
    assert [path.name for path in drawn] == [*NAMES, "confusion.png", "prediction.png", "clients.png"]


def test_letters_that_the_font_lacks_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three Chinese letters in the names of classes: no warning, but one sentence; another warning stays one."""
    folder = make_run(tmp_path / "run")
    (folder / "confusion.csv").write_text("class,猫,狗狗鼠\n猫,3,1\n狗狗鼠,0,0\n", encoding="utf-8")
    caplog.set_level(logging.INFO, logger="leanfed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "confusion.png" in [path.name for path in write_report(folder, dpi=30)]
    words = "3 characters of names are not in matplotlib's font; figures show boxes in their place"
    assert caplog.messages == [words]
    with pytest.warns(UserWarning, match="something else"), report._missing_glyphs_in_the_log():
        warnings.warn("something else", stacklevel=1)
    assert caplog.messages == [words]


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path: Path) -> None:
    """pyplot keeps figures and a backend in global state; matplotlib itself costs a second at start-up."""
    folder = make_run(tmp_path / "run")
    code = (
        "import sys, pathlib, fl.output.report\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"fl.output.report.write_report(pathlib.Path({str(folder)!r}))\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=300)


def test_a_figure_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises: all the others are there, the page too, and the failure is told."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(timing, "draw_time_per_round", broken)
    folder = make_run(tmp_path / "run")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        write_report(folder, dpi=20)
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(set(NAMES) - {"time_per_round.png"})
    assert (folder / "report.html").exists()


def test_names_that_others_chose(tmp_path: Path) -> None:
    """A folder and classes of any name there can be. Oracle: all figures, none of which is cut short or reads a formula."""
    folder = make_run(tmp_path / os.fsdecode(b"caf\xe9 $x_{\n"))
    names = [
        "$x^",
        "_",
        "a\nb",
        "\N{PILE OF POO}",
        "\N{HEBREW LETTER ALEF}" * 3,
        "x" * 1000,
        "\u202e",
        "nul\0",
        "\udce9",
    ]
    counts = torch.eye(len(names), dtype=torch.int64)
    y = torch.arange(len(names))
    write_predictions(folder, Classification(len(names), tuple(names)), Split(y[:, None].float(), y), Evaluation({}, y))
    assert len(write_report(folder, dpi=20)) == 7
    assert (folder / "report.html").stat().st_size > 10_000
    found = read_predictions(folder / "confusion.csv")
    assert found is not None
    assert found[1] == counts.tolist()
    assert found[0][2:3] + found[0][-3:] == ["a\\nb", "\\u202e", "nul\\x00", "\\xe9"]
