"""The numbers and pictures of the README and of pages of docs/ are those of the committed results."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.figures import (
    FOLDERS,
    RESULTS,
    ROOT,
    bits_sentence,
    codec_rows,
    compressed_sentence,
    link_rows,
    links_sentence,
    unequal_sentence,
    uplink_rows,
)
from fl.experiment.redraw import read_tables, redraw
from fl.experiment.spec import read_experiment


def test_the_table_of_results() -> None:
    """Every row that `make figures` prints is in the README as it stands."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in uplink_rows():
        assert row in readme


def test_which_codec() -> None:
    """Every row that `make figures` prints is in docs/which_codec.md as it stands."""
    page = (ROOT / "docs" / "which_codec.md").read_text(encoding="utf-8")
    for row in (*codec_rows(), *link_rows(), *uplink_rows()):
        assert row in page


def test_the_gallery_has_every_picture() -> None:
    """Each committed picture of an experiment stands there once."""
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    for picture in [*RESULTS.glob("**/*.png"), *(ROOT / "docs").glob("*.png")]:
        link = os.path.relpath(picture, ROOT / "docs").replace(" ", "%20")
        assert page.count(f"]({link})") == 1, picture


@pytest.mark.parametrize("sentence", [unequal_sentence, compressed_sentence, links_sentence, bits_sentence])
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
