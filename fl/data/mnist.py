"""MNIST (LeCun et al. 1998): 60,000 + 10,000 grey images of 28x28 pixels in 10 classes."""

import gzip
import hashlib
import io
from pathlib import Path

import numpy as np
import torch

from fl.common.files import read_bytes
from fl.common.torchvision_shim import import_torchvision

from .dataset import Dataset, Split
from .files import obtain

FOLDER = "MNIST/raw"
SUMS = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def load(data_dir: Path, download: bool) -> Dataset:
    """MNIST from `MNIST/raw` in DIR or DIR/mnist, fetched into DIR if absent and `download` is on.

    The files may be the compressed originals (their MD5 sums are checked) or extracted ones, so the folder may be
    read-only. DataError if they cannot be had.
    """

    def read(root: Path) -> Dataset:
        train, test = (_split(root / FOLDER, part) for part in ("train", "t10k"))
        return Dataset("mnist", train, test, classes=10, augment="none")

    def fetch(root: Path) -> None:
        import_torchvision().datasets.MNIST(root, download=True)

    return obtain("mnist", data_dir, read=read, fetch=fetch if download else None, folder=FOLDER, sums=SUMS)


def _split(folder: Path, part: str) -> Split:
    images = _read(folder / f"{part}-images-idx3-ubyte")
    labels = _read(folder / f"{part}-labels-idx1-ubyte")
    return Split(torch.from_numpy(images[:, None]), torch.from_numpy(labels.astype(np.int64)))


def _read(path: Path) -> np.ndarray:
    packed = path.with_name(path.name + ".gz")
    if not packed.exists():
        return parse_idx(read_bytes(path), path.name)
    content = read_bytes(packed)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != SUMS[packed.name]:
        raise ValueError(f"{packed.name} has the wrong MD5 sum")
    with gzip.open(io.BytesIO(content)) as stream:
        return parse_idx(stream.read(), packed.name)


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """The uint8 array in an IDX file: 0, 0, type 8, number of dimensions, big-endian sizes, values (a copy).

    Raises ValueError, naming the file, if the header or the length is wrong.
    """
    dimensions = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * dimensions
    if dimensions == 0 or len(content) < start:
        raise ValueError(f"{name} is not an IDX file of unsigned bytes")
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4)]
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != int(np.prod(shape, dtype=object)):
        raise ValueError(f"{name} is cut short or too long for its shape {shape}")
    return values.reshape(shape).copy()
