"""Tiny-ImageNet (Stanford CS231n 2015): 64x64 colour images of 200 classes, 500 each to train on and 50 to test.

The original folder is read: `wnids.txt` (a class a line), `words.txt` (their names), `train/<class>/images/*.JPEG`,
`val/images` with `val/val_annotations.txt`. Its `test` folder has no labels, so `val` is what is tested on.
"""

from pathlib import Path

import torch

from fl.common.errors import DataError
from fl.common.text_file import CANNOT_READ, read_text

from .cache import cached
from .dataset import Dataset, Split
from .pictures import decode

SIDE = 64
_FOLDERS = (".", "tiny-imagenet-200", "tiny_imagenet", "tiny_imagenet_subset")
_ANNOTATIONS = "val/val_annotations.txt"

Picture = tuple[Path, int]
"""A file and its class."""


def load(data_dir: Path, download: bool) -> Dataset:
    """Tiny-ImageNet from `tiny-imagenet-200` in DIR, DIR/tiny_imagenet or DIR/tiny_imagenet_subset, or from these folders
    themselves; there is nothing to download.

    Classes are those of wnids.txt that have a folder below train, in that order, so a subset will do. DataError for missing
    files and for pictures that cannot be read.
    """
    for root in (data_dir / outer / inner for outer in _FOLDERS for inner in ("tiny-imagenet-200", ".")):
        if (root / "wnids.txt").is_file() and (root / "train").is_dir():
            try:
                return _read(root)
            except OSError as error:  # names of classes that no folder can have
                raise DataError(f"--dataset tiny_imagenet: {root} cannot be read ({error.strerror})") from None
    raise DataError(
        f"--dataset tiny_imagenet: no copy in {data_dir}, and none can be downloaded; unpack tiny-imagenet-200.zip there, "
        f"so that there is a file {data_dir / 'tiny-imagenet-200' / 'wnids.txt'}"
    )


def _read(root: Path) -> Dataset:
    listed = _text(root / "wnids.txt").split()
    classes = {name: number for number, name in enumerate(n for n in listed if (root / "train" / n).is_dir())}
    if not classes:
        raise DataError(f"--dataset tiny_imagenet: {root / 'train'} has no folder of any class in wnids.txt")
    train = [
        (path, number)
        for name, number in classes.items()
        for path in sorted((root / "train" / name / "images").glob("*.JPEG"))
    ]
    test = []
    for number, line in enumerate(_text(root / _ANNOTATIONS).splitlines(), 1):
        cells = line.split("\t")  # picture, class, a box around the thing
        if len(cells) < 2:
            raise DataError(
                f"--dataset tiny_imagenet: line {number} of {root / _ANNOTATIONS} must be picture, tab, class"
            )
        if cells[1] in classes:
            test.append((root / "val" / "images" / cells[0], classes[cells[1]]))
    names = dict(line.split("\t", 1) for line in _text(root / "words.txt").splitlines() if "\t" in line)
    texts = [root / name for name in ("wnids.txt", "words.txt", _ANNOTATIONS)]
    pictures = [path for path, _ in (*train, *test)]
    return cached(root, [*texts, *pictures], "tiny_imagenet", lambda: _decode(train, test, classes, names))


def _decode(train: list[Picture], test: list[Picture], classes: dict[str, int], names: dict[str, str]) -> Dataset:
    return Dataset(
        "tiny_imagenet",
        _split(train),
        _split(test),
        classes=len(classes),
        augment="crop:8+flip",
        class_names=tuple(names.get(name, name).split(",")[0].strip() for name in classes),
    )


def _split(pictures: list[Picture]) -> Split:
    labels = torch.tensor([label for _, label in pictures], dtype=torch.int64)
    return Split(decode([path for path, _ in pictures], size=SIDE, channels=3, fit=False), labels)


def _text(path: Path) -> str:
    try:
        return read_text(path)[0]
    except CANNOT_READ as error:
        raise DataError(f"--dataset tiny_imagenet: {path} cannot be read ({error})") from None
