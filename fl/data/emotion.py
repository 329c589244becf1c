"""FER2013 (Goodfellow et al. 2013): grey faces of 48x48 pixels showing seven emotions.

Two forms are read. The original `fer2013.csv`: columns `emotion` (0 ... 6), `pixels` (2,304 shades 0 ... 255 apart by
spaces) and `Usage` (Training, PublicTest or PrivateTest). Or one NumPy archive `fer2013*.npz` or `emotion*.npz` with uint8
images `x_train`, `x_public` and `x_private` [N, 48, 48], integers `y_train`, `y_public`, `y_private` [N], and the names of
the labels, `classes` [7]. The public part is the validation split, the private part is tested on.
"""

import csv
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fl.common.errors import DataError
from fl.common.files import need_file
from fl.common.text_file import UNREADABLE

from .cache import cached
from .dataset import Dataset, Split
from .files import read_arrays, why_unreadable

SIDE = 48
EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The labels of the csv file, in its order."""

_USAGES = ("Training", "PublicTest", "PrivateTest")
_FOLDERS = ("emotion", "fer2013", "fer2013_subset", ".")

Part = tuple[np.ndarray, np.ndarray]


def load(data_dir: Path, download: bool) -> Dataset:
    """FER2013 from DIR/emotion, DIR/fer2013, DIR/fer2013_subset or DIR; there is nothing to download.

    DataError for missing or malformed files.
    """
    for root in (data_dir / folder for folder in _FOLDERS):
        files = sorted({*root.glob("fer2013*.npz"), *root.glob("emotion*.npz"), *root.glob("fer2013.csv")})
        if len(files) > 1:
            raise DataError(
                f"--dataset emotion: {root} must hold one of fer2013.csv, fer2013*.npz and emotion*.npz, not "
                f"{' and '.join(file.name for file in files)}"
            )
        if files:
            return cached(root, files, "emotion", partial(_read, files[0]))
    raise DataError(
        f"--dataset emotion: no copy in {data_dir} or {data_dir / 'emotion'}, and none can be downloaded; put there "
        "fer2013.csv, or an archive fer2013*.npz of x_train, y_train, x_public, y_public, x_private, y_private and classes"
    )


def _read(file: Path) -> Dataset:
    try:
        parts, names = _from_csv(file) if file.suffix == ".csv" else _from_archive(file)
        train, validation, test = (_split(images, labels) for images, labels in parts)
        return Dataset(
            "emotion",
            train,
            test,
            classes=len(names),
            augment="crop:4+flip",
            validation=validation,
            class_names=names,
        )
    except DataError as error:
        raise DataError(f"--dataset emotion: {file} is malformed ({error})") from None
    except (*UNREADABLE, KeyError, csv.Error) as error:
        raise DataError(f"--dataset emotion: {file} cannot be read ({why_unreadable(error)})") from None


def _from_archive(file: Path) -> tuple[list[Part], tuple[str, ...]]:
    names = [f"{letter}_{part}" for part in ("train", "public", "private") for letter in "xy"]
    *arrays, classes = read_arrays(file, (*names, "classes"))
    try:
        names = [str(name) for name in classes.reshape(-1)]
    except SystemError:  # characters that there are not
        raise ValueError("its classes are no names") from None
    return list(zip(arrays[::2], arrays[1::2], strict=True)), tuple(names)


def _from_csv(file: Path) -> tuple[list[Part], tuple[str, ...]]:
    images: dict[str, list[bytes]] = {usage: [] for usage in _USAGES}
    labels: dict[str, list[int]] = {usage: [] for usage in _USAGES}
    need_file(file)
    with open(file, newline="", encoding="utf-8-sig") as stream:
        rows = csv.reader(stream)
        header = [cell.strip() for cell in next(rows, [])]
        if not set(header) >= {"emotion", "pixels", "Usage"}:
            raise DataError("its first line must name the columns emotion, pixels and Usage")
        for row in filter(None, rows):
            try:
                cells = dict(zip(header, row, strict=True))
                picture = bytes(map(int, cells["pixels"].split()))  # refuses whatever is not 0 ... 255
                if len(picture) != SIDE * SIDE:
                    raise ValueError(f"{len(picture)} pixels")
                images[cells["Usage"]].append(picture)
                labels[cells["Usage"]].append(int(cells["emotion"]))
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"line {rows.line_num}: {error}, where an emotion 0 ... 6, {SIDE * SIDE} pixels 0 ... 255 and a Usage, "
                    f"{', '.join(_USAGES)}, would be right"
                ) from None
    parts = [
        (np.frombuffer(b"".join(images[usage]), np.uint8).reshape(-1, SIDE, SIDE).copy(), np.array(labels[usage], int))
        for usage in _USAGES
    ]
    return parts, EMOTIONS


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"images must be uint8 [N, {SIDE}, {SIDE}], not {images.dtype} {list(images.shape)}")
    if labels.dtype.kind not in "iu":
        raise DataError(f"labels must be integers, not {labels.dtype}")
    return Split(torch.from_numpy(images[:, None]), torch.from_numpy(labels.astype(np.int64)))
