"""Tiny-ImageNet. Oracles: small folders of the original layout made by hand; the counts of the real subset."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl.common.config import DataOptions
from fl.common.errors import DataError
from fl.data import load_dataset
from fl.data.tiny_imagenet import load

WORDS = {"n03": "goldfish, Carassius auratus", "n01": "bullfrog", "n02": "tarantula"}


def write(root: Path, train: dict[str, int], val: list[str]) -> None:
    """The original layout: so many training pictures a class, and one to validate on for every class in `val`, all of one
    shade: 10 times the class's digit, plus its number among the class's."""
    (root / "val" / "images").mkdir(parents=True)
    (root / "wnids.txt").write_text("".join(f"{name}\n" for name in WORDS))
    (root / "words.txt").write_text("".join(f"{name}\t{words}\n" for name, words in WORDS.items()))
    for name, count in train.items():
        folder = root / "train" / name / "images"
        folder.mkdir(parents=True)
        for number in range(count):
            _save(folder / f"{name}_{number}.JPEG", 10 * int(name[-1]) + number)
    lines = [f"val_{number}.JPEG\t{name}\t0\t1\t52\t48\n" for number, name in enumerate(val)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    for number, name in enumerate(val):
        _save(root / "val" / "images" / f"val_{number}.JPEG", 10 * int(name[-1]))


def _save(path: Path, shade: int, side: int = 64) -> None:
    Image.fromarray(np.full((side, side), shade, np.uint8)).save(path, format="jpeg")


@pytest.mark.parametrize("place", ["tiny-imagenet-200", "tiny_imagenet", "tiny_imagenet_subset/tiny-imagenet-200", "."])
def test_the_original_layout(tmp_path: Path, place: str) -> None:
    """Oracle: the shades written (grey JPEGs, read as RGB), labels in the order of wnids.txt, and their names."""
    write(tmp_path / place, {"n01": 2, "n02": 1, "n03": 3}, ["n02", "n03", "n01", "n03"])
    data = load(tmp_path, False)
    assert data.train.x.shape == (6, 3, 64, 64)
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 2]
    assert data.train.x[:, 1, 5, 60].tolist() == [30, 31, 32, 10, 11, 20]
    assert data.test.y.tolist() == [2, 0, 1, 0]
    assert data.test.x[:, 2, 0, 0].tolist() == [20, 30, 10, 30]
    assert (data.classes, data.class_names) == (3, ("goldfish", "bullfrog", "tarantula"))


def test_a_subset(tmp_path: Path) -> None:
    """Oracle: a class without a folder is not one, and what is annotated as such is left out."""
    write(tmp_path, {"n02": 1, "n03": 1}, ["n01", "n02", "n03"])
    data = load(tmp_path, False)
    assert data.class_names == ("goldfish", "tarantula")
    assert data.test.y.tolist() == [1, 0]


def _refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, True)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_missing(tmp_path: Path) -> None:
    """Oracle: where the files belong."""
    assert str(tmp_path / "tiny-imagenet-200" / "wnids.txt") in _refused(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("val/val_annotations.txt", b"val_0.JPEG n01\n", "line 1 of"),
        ("val/val_annotations.txt", b"val_9.JPEG\tn01\n", "val_9.JPEG cannot be read as a picture (no such file)"),
        ("val/val_annotations.txt", b"", "test split must not be empty"),
        ("wnids.txt", b"n09\n", "no folder of any class"),
        ("words.txt", b"n01\tcat\0", "words.txt cannot be read"),
        ("train/n01/images/n01_1.JPEG", b"no picture", "n01_1.JPEG cannot be read as a picture"),
    ],
)
def test_malformed(tmp_path: Path, file: str, content: bytes, says: str) -> None:
    """Oracle: one sentence that names the file."""
    write(tmp_path, {"n01": 2, "n02": 1}, ["n01"])
    (tmp_path / file).write_bytes(content)
    assert says in _refused(tmp_path)


def test_another_size_and_a_missing_list(tmp_path: Path) -> None:
    """Oracle: as above."""
    write(tmp_path, {"n01": 2}, ["n01"])
    _save(tmp_path / "train" / "n01" / "images" / "n01_0.JPEG", 7, side=32)
    assert "must have 64x64 pixels, not 32x32" in _refused(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").unlink()
    assert "val_annotations.txt cannot be read" in _refused(tmp_path)


def test_the_real_subset(real_data: Path) -> None:
    """Oracle: the README beside the data: ten classes of 100 + 20 pictures; goldfish are more red than blue."""
    data = load_dataset(DataOptions(dataset="tiny_imagenet", data_dir=str(real_data)), seed=0)
    assert torch.bincount(data.train.y).tolist() == [100] * 10
    assert torch.bincount(data.test.y).tolist() == [20] * 10
    assert data.class_names[:2] == ("goldfish", "European fire salamander")
    red, _, blue = data.train.x[data.train.y == 0].float().mean((0, 2, 3)).tolist()
    assert red > blue + 30
