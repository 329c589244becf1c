"""The README's numbers are those of the committed results."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.figures import FOLDERS, RESULTS, ROOT, bits_sentence, links_sentence, unequal_sentence, uplink_rows
from fl.experiment.redraw import read_tables, redraw
from fl.experiment.spec import read_experiment


def test_the_table_of_results() -> None:
    """Every row that `make figures` prints is in the README as it stands."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in uplink_rows():
        assert row in readme


@pytest.mark.parametrize("sentence", [unequal_sentence, links_sentence, bits_sentence])
def test_sentences(sentence: Callable[[], str]) -> None:
    """Those that `make figures` prints are in the README, wherever its lines end."""
    assert sentence() in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_committed_tables_belong_to_their_experiments() -> None:
    """results.csv and curves.csv can be drawn again: arms and seeds are those of the file."""
    found = 0
    for file in sorted((ROOT / "experiments").glob("*.yaml")):
        folder = RESULTS / FOLDERS.get(file.stem, file.stem)
        if (folder / "curves.csv").exists():
            assert read_tables(read_experiment(file), folder).rows
            found += 1
    assert found >= 10


@pytest.mark.parametrize("name", ["femnist_unequal", "server_optimizers"])
def test_redrawn_pictures_have_all_their_panels(tmp_path: Path, name: str) -> None:
    """With and without virtual time: as wide and as high as the committed picture."""
    for table in ("results.csv", "curves.csv"):
        shutil.copy(RESULTS / name / table, tmp_path)
    drawn = redraw(read_experiment(ROOT / "experiments" / f"{name}.yaml"), tmp_path)
    assert Image.open(drawn).size == Image.open(RESULTS / name / "accuracy.png").size
