"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels in 10 classes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fl.common.torchvision_shim import import_torchvision

from .dataset import Dataset, Split
from .files import obtain


def load(data_dir: Path, download: bool) -> Dataset:
    """CIFAR-10 from `cifar-10-batches-py` in DIR or DIR/cifar10, fetched into DIR if absent and `download` is on.

    torchvision checks the MD5 sums of the official files before it unpickles them. DataError if they cannot be had.
    """
    reader = import_torchvision().datasets.CIFAR10

    def read(root: Path) -> Dataset:
        if not (root / reader.base_folder).is_dir():
            raise FileNotFoundError(f"no folder {root / reader.base_folder}")
        train, test = (_split(reader(root, train=train)) for train in (True, False))
        return Dataset("cifar10", train, test, classes=10, augment="crop:4+flip")

    def fetch(root: Path) -> None:
        reader(root, download=True)

    files = [*reader.train_list, *reader.test_list, (reader.meta["filename"], reader.meta["md5"])]
    return obtain(
        "cifar10",
        data_dir,
        read=read,
        fetch=fetch if download else None,
        folder=reader.base_folder,
        sums=dict(files),
    )


def _split(part: Any) -> Split:
    # torchvision holds [N, H, W, C]; undoing its transposition gives back the contiguous original without a copy
    images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
    return Split(torch.from_numpy(images), torch.tensor(part.targets, dtype=torch.int64))
