"""The figure of layers. Oracle: the numbers of a synthetic layers.csv, compared with what lies on the axes."""

import io
from pathlib import Path

import numpy as np
import pytest

from fl.output.figures import layers
from fl.output.figures.run_data import read_run
from fl.output.report import write_report
from tests.fl.output.figures.run_folder import NAMES, add_layers, make_run

pytestmark = pytest.mark.slow


def test_layers_show_the_numbers(tmp_path: Path) -> None:
    """Layers down and rounds across; beside it, for the last round, what is left and what was sent."""
    folder = add_layers(make_run(tmp_path / "run"), ["a", "b", "c"])
    figure = layers.draw_layers(read_run(folder))
    pruned, _, sent = figure.axes  # the colour bar is between
    np.testing.assert_allclose(pruned.images[0].get_array(), [[0, 0, 0, 0], [0, 0.1, 0.2, 0.3], [0, 0, 0, 0]])
    assert [label.get_text() for label in pruned.get_yticklabels()] == ["a", "b", "c"]
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in sent.containers}
    np.testing.assert_allclose(widths["not pruned"], [1, 0.7, 1])
    np.testing.assert_allclose(widths["sent, mean of the clients"], [0.01] * 3)
    assert [text.get_text() for text in sent.texts] == ["1.00%"] * 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("count", "rounds"), [(1, 1), (62, 3), (400, 2)])
def test_layers_are_drawn_for_any_number(tmp_path: Path, count: int, rounds: int) -> None:
    """The height grows to a limit; from 91 layers on only some have names, which may look like formulas."""
    folder = make_run(tmp_path / "run", rounds=rounds)
    figure = layers.draw_layers(read_run(add_layers(folder, _names(count), rounds)))
    figure.savefig(io.BytesIO(), dpi=30)
    assert len(figure.axes[0].get_yticklabels()) == {1: 1, 62: 62, 400: 80}[count]
    assert figure.get_figheight() < 20


@pytest.mark.filterwarnings("error")
def test_layers_are_a_picture_of_the_report(tmp_path: Path) -> None:
    """The seventh."""
    paths = write_report(add_layers(make_run(tmp_path / "run"), _names(400)), dpi=30)
    assert [path.name for path in paths] == [*NAMES, "layers.png"]


def _names(count: int) -> list[str]:
    return [f"layer{i}.$w_{{" for i in range(count)]
