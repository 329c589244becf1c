"""The figure of clients. Oracle: scores by hand, compared with what lies on the axes."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from fl.output.figures import style
from fl.output.figures.client_scores import draw_client_scores
from fl.output.figures.run_data import read_run
from tests.fl.output.figures.run_folder import axes_of, make_run


def test_the_worst_tenth_of_twenty_clients_are_two(tmp_path: Path) -> None:
    """Scores 0.10, 0.14, 0.18, ... in any order: the two lowest are marked, and the label has their mean, 12 %."""
    scores = 0.1 + 0.04 * np.random.default_rng(0).permutation(20)
    run = read_run(make_run(tmp_path / "run"))
    axes = axes_of(lambda axes, run: draw_client_scores(axes, run, np.full(20, 5.0), scores), run)
    marked = [bar.get_height() for bar in axes.patches if to_hex(bar.get_facecolor()) == style.ORANGE]
    assert marked == pytest.approx([0.1, 0.14])
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert sorted(words) == ["clients", "mean by samples 48.00%", "worst tenth, mean 12.00%"]
