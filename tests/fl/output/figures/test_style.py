"""Legends. Oracle: the labels that the artists were given."""

import io

import pytest
from matplotlib.figure import Figure

from fl.output.figures import style


@pytest.mark.filterwarnings("error")
def test_names_in_a_legend_are_shown_as_they_are() -> None:
    """A name with a leading underscore, and one that is no mathematics though it looks so."""
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2], label="_dense")
    axes.plot([2, 1], label="$x^$")
    style.legend(axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["_dense", "$x^$"]
    figure.savefig(io.BytesIO(), format="png")


def test_what_has_no_label_has_no_entry() -> None:
    """Bars are one entry each, however many there are; fills, bands, reference lines and the axes' own parts are none."""
    axes = Figure().add_subplot()
    style.legend(axes)
    assert axes.get_legend() is None
    axes.bar([1, 2, 3], [1, 2, 3], label="bars")
    axes.bar([1, 2, 3], [3, 2, 1])
    axes.barh([1, 2], [1, 2], label="lying")
    axes.plot([1, 2], label="line")
    axes.plot([1, 2])
    axes.axhline(1)
    axes.fill_between([1, 2], [1, 2], [2, 3])
    axes.broken_barh([(0, 1)], (0, 1), label="span")
    axes.broken_barh([(1, 1)], (0, 1), label=None)
    axes.errorbar([1, 2], [1, 2], yerr=1, label="error")
    axes.text(1, 1, "words")
    style.legend(axes)
    expected = axes.get_legend_handles_labels()
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == expected[1] == ["line", "span", "bars", "lying", "error"]
