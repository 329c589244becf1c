"""The figure of predictions. Oracle: pairs by hand, compared with what lies on the axes and in the subtitle."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from fl.output.figures.predictions import draw_predictions
from fl.output.figures.run_data import read_run
from fl.output.report import write_report
from tests.fl.output.figures.run_folder import make_run

pytestmark = pytest.mark.slow


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in (*figure.texts, *figure.axes[0].texts)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("predicted", "drawn", "says"),
    [
        ([1.5, 3.0], [[1, 1.5], [4, 3]], "test split, 2 samples, mean absolute error 0.75"),
        ([1.5, math.inf], [[1, 1.5]], "test split, 2 samples, 1 not finite and left out, mean absolute error 0.5"),
        ([math.nan, 3.0], [[4, 3]], "test split, 2 samples, 1 not finite and left out, mean absolute error 1"),
        ([1e38, 3.0], [[1, 1e38], [4, 3]], "test split, 2 samples, mean absolute error 5e+37"),
        ([-math.inf, math.nan], None, "test split, 2 samples, 2 not finite and left out"),
    ],
)
def test_predictions_that_are_not_finite(tmp_path: Path, predicted: list[float], drawn: object, says: str) -> None:
    """Of targets 1 and 4: what is finite is drawn, the rest is counted; with nothing left there is a note."""
    run = read_run(make_run(tmp_path / "run"))
    figure = draw_predictions(run, np.array([1.0, 4.0]), np.array(predicted))
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    assert says in words(figure)
    lines = figure.axes[0].get_lines()
    assert (lines[0].get_xydata().tolist() if lines else None) == drawn
    assert ("no prediction is a finite number" in words(figure)) == (drawn is None)


def test_a_model_that_overflows_has_a_report(tmp_path: Path) -> None:
    """As `predictions.csv` has it: `inf`."""
    folder = make_run(tmp_path / "run")
    (folder / "predictions.csv").write_text("target,prediction\n1.0,1.5\n4.0,inf\n")
    assert "prediction.png" in [path.name for path in write_report(folder, dpi=30)]
    assert (folder / "report.html").is_file()
