"""The page of an experiment. Oracle: means worked out by hand, and what a page never does."""

import re
from pathlib import Path

import pytest
from PIL import Image

from fl.experiment.matrix import matrix
from fl.experiment.page import write_experiment_page
from fl.experiment.results import Results, Row
from fl.experiment.spec import parse_experiment
from fl.training.tasks import ACCURACY
from tests.fl.experiment.test_spec import changed


def test_arms_and_runs(tmp_path: Path) -> None:
    """Means of 0.5 and 0.7; none of a target that one of two seeds reached; every run; names are escaped; no address."""
    experiment = parse_experiment(changed())
    runs = matrix(experiment, data_dir="data", output_dir=str(tmp_path), threads=None)
    arm = experiment.arms[0]
    rows = []
    for run in runs:
        first = run.seed == experiment.seeds[0]
        cells = {
            "arm": run.arm.name,
            "seed": run.seed,
            "final_test_accuracy": 0.5 if first else 0.7,
            "uplink_bytes": 10,
        }
        rows.append(Row(run, {**cells, "rounds_to_target": 3 if first else None}, [], {}, ""))
    own = [row for row in rows if row.run.arm is arm][:2]
    picture = tmp_path / "accuracy.png"
    Image.new("RGB", (30, 20), "white").save(picture)
    path = write_experiment_page(Results(experiment, tmp_path, own, [], 0.5, ACCURACY), picture, ["<b>note</b>"])
    text = path.read_text()
    assert path.name == "report.html"
    assert "&lt;b&gt;note" in text
    assert re.search(r"https?://", re.sub(r"base64,[^\"]*", "", text)) is None
    table = text[text.index("Arms") :]
    assert float(re.findall(r'data-value="([^"]*)"', table)[2]) == pytest.approx(0.6)
    assert "rounds_to_target" in text  # of the runs: one has it
    assert "rounds_to_target" not in table[: table.index("Runs")]
    assert "virtual_time_to_target_s" not in text
