"""Holding out validation samples, on which every decision of a run is made (test data decide nothing)."""

import numpy as np
import torch

from fl.common.seeds import numpy_generator

from .dataset import Dataset, Split
from .groups import share_of_each, take_of_each


def divide(data: Dataset, fraction: float, seed: int) -> tuple[np.ndarray, Split]:
    """Positions of the samples of `data.train` to train on, sorted int64, and the samples on which decisions are made.

    The latter are the data set's own validation split, if it has one, whatever `fraction` says; else as
    `split_validation` draws them.
    """
    if data.validation is not None:
        return np.arange(len(data.train)), data.validation
    groups = None if data.groups is None else data.groups.numpy()
    train_at, validation_at = split_validation(len(data.train), fraction, seed, groups)
    return train_at, data.train.take(torch.from_numpy(validation_at))


def split_validation(
    count: int, fraction: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Positions 0 ... count-1 in two sorted, disjoint int64 arrays: (train, validation).

    Validation gets the nearest whole number to `fraction * count`, drawn by seed: at least one sample unless the
    fraction is 0, and never all of them. With `groups`, the number 0 ... G-1 of the group of every sample (int64 [count]),
    they come from all groups in proportion, and never all samples of a group.
    """
    if groups is None:
        groups = np.zeros(count, dtype=np.int64)
    sizes = np.bincount(groups)
    held = 0 if fraction == 0 else min(max(round(fraction * count), 1), count - len(sizes))
    held_of_each = sizes - share_of_each(sizes, count - held)
    validation = take_of_each(groups, held_of_each, numpy_generator(seed, "validation"))
    return np.delete(np.arange(count), validation), validation
