"""report.html of an experiment: its figure, its arms, every run and every evaluated round, in one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.output.html.page import Page, Picture, SortableTable
from fl.output.html.run_page import NAME

if TYPE_CHECKING:  # which imports this package itself
    from .results import Results

_ARMS = "Means over an arm's finished seeds, empty where one of them has no such value. Bytes: all clients and rounds."
_RUNS = "The columns of results.csv. best_val_test: the test score of the round with the best validation score."


def write_experiment_page(results: "Results", picture: Path, notes: Sequence[str]) -> Path:
    """Write report.html beside the results, and return its path. `picture`: the experiment's PNG file; `notes`:
    paragraphs above it."""
    experiment, score = results.experiment, results.score
    caption = f"Validation {score.title} by rounds and by bytes"
    tables = [
        SortableTable.of("Arms", _arms(results), _ARMS),
        SortableTable.of("Runs", _columns([row.cells for row in results.rows]), _RUNS),
        SortableTable.of(
            "Options", {"option": list(experiment.base), "value": list(map(str, experiment.base.values()))}
        ),
    ]
    page = Page(experiment.name, experiment.description, (), notes, [Picture.of(picture, caption, wide=True)], tables)
    return page.write(results.folder / NAME)


def _arms(results: "Results") -> dict[str, list[Any]]:
    names = [f"final_test_{results.score.name}", f"final_val_{results.score.name}", "uplink_bytes", "downlink_bytes"]
    names += ["rounds_to_target", "uplink_bytes_to_target", "virtual_time_to_target_s"]
    rows = []
    for arm in results.experiment.arms:
        own = results.of(arm)
        means = {name: _mean([row.cells.get(name) for row in own]) for name in names}
        rows.append({"arm": arm.name, "seeds": len(own), **means})
    return _columns(rows)


def _mean(values: Sequence[float | None]) -> float | None:
    """None unless every seed has a value: a mean of those that reached a target flatters the arm."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """By column, in the order in which they first come; those that are empty throughout are left out."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row.get(name) for row in rows] for name in names}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}
