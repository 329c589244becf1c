"""FEMNIST (LEAF: Caldas et al. 2018): 28x28 grey images of 62 handwritten characters, grouped by who wrote them.

Two forms are read. One NumPy archive `femnist*.npz` with uint8 images `x_train` and `x_test` [N, 28, 28], integers
`y_train`, `y_test` and `writer_train` [N] (other arrays are ignored). Or what LEAF's `preprocess.sh -s niid -t sample`
writes: folders `train` and `test` of JSON files, `{"users": [...], "user_data": {user: {"x": [[784 numbers in 0 ... 1]],
"y": [...]}}}`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fl.common.errors import DataError
from fl.common.files import read_json
from fl.common.text_file import UNREADABLE

from .cache import cached
from .dataset import Dataset, Split
from .files import read_arrays, why_unreadable

SIDE = 28
CLASSES = 62

# Besides what any file can raise: what JSON of another shape can.
_MALFORMED = (*UNREADABLE, KeyError, TypeError, OverflowError, AttributeError)


def load(data_dir: Path, download: bool) -> Dataset:
    """FEMNIST from DIR/femnist, DIR/femnist/data (where LEAF puts it) or DIR; there is nothing to download.

    The groups are the writers, numbered in the archive, and in JSON by name. DataError for missing or malformed files.
    """
    for root in (data_dir / "femnist", data_dir / "femnist" / "data", data_dir):
        archives = sorted(root.glob("femnist*.npz"))
        if len(archives) > 1:
            raise DataError(f"--dataset femnist: {root} must hold one femnist*.npz, not {len(archives)}")
        parts = [sorted((root / part).glob("*.json")) for part in ("train", "test")]
        if archives:
            return cached(root, archives, "femnist", partial(_read, archives[0], _from_archive))
        if all(parts):
            return cached(root, [*parts[0], *parts[1]], "femnist", partial(_read, root, _from_leaf))
    raise DataError(
        f"--dataset femnist: no copy in {data_dir} or {data_dir / 'femnist'}, and none can be downloaded; put there one "
        "femnist*.npz, or the folders train and test of JSON files that LEAF's preprocess.sh -s niid -t sample makes"
    )


def _read(path: Path, reader: Any) -> Dataset:
    try:
        return reader(path)
    except DataError as error:
        raise DataError(f"--dataset femnist: {path} is malformed ({error})") from None
    except _MALFORMED as error:
        raise DataError(f"--dataset femnist: {path} cannot be read ({why_unreadable(error)})") from None


def _from_archive(path: Path) -> Dataset:
    return _dataset(*read_arrays(path, ("x_train", "y_train", "x_test", "y_test", "writer_train")))


def _from_leaf(root: Path) -> Dataset:
    x_train, y_train, users = _leaf_part(root / "train")
    x_test, y_test, _ = _leaf_part(root / "test")
    _, writers = np.unique(users, return_inverse=True)
    return _dataset(x_train, y_train, x_test, y_test, writers)


def _leaf_part(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images uint8 [N, 28, 28], labels and names of the writers of all JSON files in `folder`, in order of their names."""
    images, labels, users = [], [], []
    for path in sorted(folder.glob("*.json")):
        try:
            content = read_json(path)
            for user in content["users"]:
                own = content["user_data"][user]
                images.append(_pixels(own["x"]))
                labels.append(np.asarray(own["y"]).reshape(-1))
                users.append(np.full(len(own["x"]), str(user)))
        except _MALFORMED as error:
            what = f"there is no {error}" if isinstance(error, KeyError) else error
            raise DataError(f"{path.relative_to(folder.parent)}: {what}") from None
    if not images:
        raise DataError(f"{folder.name} names no users")
    return np.concatenate(images), np.concatenate(labels), np.concatenate(users)


def _pixels(rows: list[list[float]]) -> np.ndarray:
    """Shades 0 ... 1 as uint8 0 ... 255; LEAF divides whole numbers by 255, so rounding gives them back."""
    shades = np.asarray(rows, dtype=np.float64).reshape(len(rows), SIDE, SIDE)
    if not (shades.min(initial=0) >= 0 and shades.max(initial=0) <= 1):  # also false for not-a-number
        raise ValueError("shades must lie in 0 ... 1")
    return np.rint(shades * 255).astype(np.uint8)


def _dataset(
    x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, writers: np.ndarray
) -> Dataset:
    train, test = _split(x_train, y_train), _split(x_test, y_test)
    return Dataset("femnist", train, test, classes=CLASSES, augment="none", groups=_integers(writers, "writers"))


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"images must be uint8 [N, {SIDE}, {SIDE}], not {images.dtype} {list(images.shape)}")
    return Split(torch.from_numpy(images[:, None]), _integers(labels, "labels"))


def _integers(values: np.ndarray, name: str) -> torch.Tensor:
    if values.dtype.kind not in "iu":
        raise DataError(f"{name} must be integers, not {values.dtype}")
    return torch.from_numpy(values.astype(np.int64))
