"""The digits of scikit-learn (Alpaydin and Kaynak 1998): 1,797 real images, embedded, so nothing is downloaded."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch

from .dataset import Dataset, Split

TEST_FRACTION = 0.2


def load(data_dir: Path, download: bool) -> Dataset:
    """Digits as 3x32x32 images, 1,438 to train on and 359 to test, ten classes; both arguments are unused.

    The test split is stratified and fixed: it does not depend on any seed or library version.
    """
    grey, labels = decoded()
    x = torch.from_numpy(np.repeat(grey[:, None], 3, axis=1))
    y = torch.from_numpy(labels)
    held_out = torch.from_numpy(_test_mask(labels))
    train, test = Split(x[~held_out], y[~held_out]), Split(x[held_out], y[held_out])
    return Dataset("digits", train, test, classes=10, augment="crop:2")


@functools.cache
def decoded() -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32] and labels [N]; an experiment's runs, one after another, decode them once."""
    package = importlib.util.find_spec("sklearn")  # its file alone: to import it takes as long as to import torch
    assert package is not None
    assert package.origin is not None
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", np.int64, delimiter=",")
    return enlarge(table[:, :-1].reshape(-1, 8, 8)), table[:, -1]


def enlarge(small: np.ndarray) -> np.ndarray:
    """[N, 8, 8] integers 0 ... 16 as [N, 32, 32] uint8 0 ... 255, bilinear.

    In integers (weights in eighths, as half-pixel centres four times finer give), so every machine has the same bits.
    """
    weights = np.zeros((32, 8), dtype=np.int64)
    for row in range(32):
        eighths = 2 * row - 3  # position of the row's centre, in eighths of a small pixel
        below, part = divmod(eighths, 8)
        weights[row, max(below, 0)] += 8 - part
        weights[row, min(below + 1, 7)] += part
    large = weights @ small @ weights.T  # 0 ... 16 * 64
    return ((large * 255 + 512) // 1024).astype(np.uint8)


def _test_mask(labels: np.ndarray) -> np.ndarray:
    """True for the fifth of every class that is held out."""
    legacy = np.random.RandomState(0)  # its stream is frozen for good, unlike Generator's
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = legacy.permutation(np.flatnonzero(labels == label))
        mask[members[: round(TEST_FRACTION * len(members))]] = True
    return mask
