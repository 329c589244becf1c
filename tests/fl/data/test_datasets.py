"""Oracles: the published counts and sums of the data sets, files made by hand, the words of the messages."""

import gzip
import hashlib
import math
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.common.config import DataOptions
from fl.common.errors import ConfigError, DataError
from fl.common.torchvision_shim import import_torchvision
from fl.data import Dataset, Split, check_dataset, load_dataset, mnist
from fl.data.digits import enlarge


def split(count=6, channels=3, size=4, classes=2):
    return Split(torch.zeros(count, channels, size, size, dtype=torch.uint8), torch.arange(count) % classes)


def made_by_user(data_dir):
    """A data set function as a user would write it; the name tells what it was called with."""
    return Dataset(f"{type(data_dir).__name__}:{data_dir.name}", split(), split(), classes=2)


def makes_nothing(data_dir):
    """Not a data set function."""


def idx(values):
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_mnist(folder, count=5):
    """Tiny extracted MNIST files; image n of the training part is filled with n, of the test part with 100 + n."""
    folder.mkdir(parents=True)
    for part, first in (("train", 0), ("t10k", 100)):
        values = np.arange(first, first + count, dtype=np.uint8)
        pictures = np.broadcast_to(values[:, None, None], (count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pictures))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(values % 10))


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (torch.zeros(2, 3, 4, 4).double(), torch.zeros(2, dtype=torch.int64), r"images, uint8 .* not float64"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), r"float32 \[N, ...\], not float32 \[2\]"),
        (torch.tensor([[1.0], [math.nan]]), torch.zeros(2, dtype=torch.int64), "samples must be finite"),
        (torch.zeros(2, 4), torch.tensor([1.0, math.inf]), "targets must be finite"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"not uint8 \[2, 4, 4\]"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2).double(), "labels must be int64"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "3 labels for 2 images"),
    ],
)
def test_malformed_splits(x, y, says):
    """Oracle: the message says what was given."""
    with pytest.raises(DataError, match=says):
        Split(x, y)


def test_take_keeps_order_and_copies():
    """Oracle by hand."""
    whole = Split(torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1), torch.arange(4))
    part = whole.take(torch.tensor([3, 1, 1]))
    assert len(part) == 3
    assert part.x.flatten().tolist() == part.y.tolist() == [3, 1, 1]


@pytest.mark.parametrize(
    ("test", "classes", "says"),
    [(split(channels=1), 2, "one shape"), (split(), 1, r"0 \.\.\. 0, not 0 \.\.\. 1"), (split(0), 2, "empty")],
)
def test_parts_that_do_not_fit(test, classes, says):
    """Oracle: the message says what does not fit."""
    with pytest.raises(DataError, match=says):
        Dataset("x", split(), test, classes)


def rows(count=6, features=4):
    return Split(torch.randn(count, features), torch.arange(count).float())


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"validation": split(channels=1)}, "train and validation images must have one shape"),
        ({"validation": split(0)}, "validation split must not be empty"),
        ({"test": Split(torch.zeros(6, 3, 4, 4), torch.arange(6) % 2)}, "one type"),
        ({"classes": 0}, r"0 classes means numbers, float32 \[N\], not int64 \[6\]"),
        ({"train": rows(), "test": rows()}, r"2 classes are int64 \[N\], not float32 \[6\]"),
        ({"class_names": ("one",)}, "a name for each of the 2 classes, not 1"),
        ({"train": rows(), "test": rows(), "classes": 0, "target": (3.0, 0.0)}, "deviation above 0"),
        ({"train": rows(), "test": rows(), "classes": 0, "target": (math.nan, 1.0)}, "deviation above 0"),
    ],
)
def test_new_parts_that_do_not_fit(parts, says):
    """Oracle: the message says what does not fit."""
    with pytest.raises(DataError, match=says):
        Dataset("x", **{"train": split(), "test": split(), "classes": 2, **parts})


@pytest.mark.parametrize(
    ("shape", "channels", "size"), [((3, 8, 6), 3, 8), ((12, 5), 5, 12), ((7,), 7, 1), ((1, 4, 4), 1, 4)]
)
def test_what_models_are_told_of_samples(shape, channels, size):
    """Oracle by hand: [C, H, W] has C channels of H pixels, [T, F] F features at T steps, [F] F features at one."""
    some = Split(torch.zeros(2, *shape), torch.zeros(2))
    data = Dataset("x", some, some, classes=0)
    assert (data.sample_shape, data.channels, data.image_size) == (shape, channels, size)


def test_digits():
    """Oracle: 1,797 digits of the original; a fifth of each class held out; and the fixed split's own sum, so that no
    library version changes what "test" means."""
    data = load_dataset(DataOptions(dataset="digits"), seed=0)
    assert (len(data.train), len(data.test), data.classes) == (1438, 359, 10)
    assert (data.channels, data.image_size) == (3, 32)
    counts = torch.bincount(data.train.y) + torch.bincount(data.test.y)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert ((torch.bincount(data.test.y) - counts * 0.2).abs() <= 0.5).all()
    assert data.train.x.max() == 255
    assert hashlib.sha256(data.test.x.numpy().tobytes()).hexdigest()[:16] == "aad6768dde73ba66"


def test_digits_are_enlarged_bilinearly():
    """Oracle: torch's bilinear interpolation in float64, rounded."""
    small = np.random.default_rng(0).integers(0, 17, (20, 8, 8))
    exact = torch.nn.functional.interpolate(torch.from_numpy(small)[None].double(), scale_factor=4, mode="bilinear")
    assert np.abs(enlarge(small) - exact[0].numpy() * 255 / 16).max() <= 0.5 + 1e-9


def test_limit_train_is_drawn_by_seed():
    """Oracle: the same seed, the same samples; they are among the originals and the test split is untouched."""
    full = load_dataset(DataOptions(dataset="digits"), seed=0)
    few, again, other = (load_dataset(DataOptions(dataset="digits", limit_train=50), seed=s) for s in (1, 1, 2))
    assert len(few.train) == 50
    assert torch.equal(few.train.x, again.train.x)
    assert not torch.equal(few.train.x, other.train.x)
    originals = {image.numpy().tobytes() for image in full.train.x}
    assert all(image.numpy().tobytes() in originals for image in few.train.x)
    assert torch.equal(few.test.x, full.test.x)
    assert len(load_dataset(DataOptions(dataset="digits", limit_train=10**6), seed=0).train) == 1438


def test_limit_test_is_drawn_by_seed():
    """Oracle: as above, for the test split; the training split is untouched, and a limit beyond the end changes nothing."""
    full = load_dataset(DataOptions(dataset="digits"), seed=0)
    few, again, other = (load_dataset(DataOptions(dataset="digits", limit_test=40), seed=s) for s in (1, 1, 2))
    assert len(few.test) == 40
    assert torch.equal(few.test.x, again.test.x)
    assert not torch.equal(few.test.x, other.test.x)
    originals = {image.numpy().tobytes() for image in full.test.x}
    assert len({image.numpy().tobytes() for image in few.test.x} & originals) == 40
    assert torch.equal(few.train.x, full.train.x)
    assert torch.equal(load_dataset(DataOptions(dataset="digits", limit_test=359), seed=0).test.x, full.test.x)


def test_users_own_function(monkeypatch, tmp_path):
    """Oracle: it is called with one pathlib.Path, the data folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    data = load_dataset(DataOptions(dataset="test_datasets:made_by_user", data_dir=str(tmp_path)), seed=0)
    assert data.name == f"{type(tmp_path).__name__}:{tmp_path.name}"
    with pytest.raises(DataError, match=r"must return a fl\.data\.Dataset, not NoneType"):
        load_dataset(DataOptions(dataset="test_datasets:makes_nothing"), seed=0)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cifar01", "did you mean 'cifar10'"),
        ("quite:wrong:name", "known name or package.module:function"),
        ("no_such_package.module:f", "there is no module 'no_such_package'"),
        ("fl.data:no_such_function", "has no function 'no_such_function'"),
    ],
)
def test_unknown_names(name, says):
    """Oracle: one sentence, before anything is loaded."""
    with pytest.raises(ConfigError, match=says):
        check_dataset(DataOptions(dataset=name))


@pytest.mark.parametrize("root", [".", "mnist"])
def test_mnist_in_either_folder(tmp_path, root):
    """Oracle: the values written, whether below DIR or DIR/mnist."""
    write_mnist(tmp_path / root / "MNIST" / "raw")
    data = load_dataset(DataOptions(dataset="mnist", data_dir=str(tmp_path), download=False), seed=0)
    assert data.train.x.shape == (5, 1, 28, 28)
    assert data.train.x[:, 0, 3, 4].tolist() == [0, 1, 2, 3, 4]
    assert data.test.x[:, 0, 27, 27].tolist() == [100, 101, 102, 103, 104]
    assert data.test.y.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03", b"\0\0\x0d\x01\0\0\0\x01x", b"\0\0\x08\x01\0\0\0\x02x"])
def test_malformed_idx(content):
    """Oracle: empty, headless, of another type, cut short: all refused, never read beyond the end."""
    with pytest.raises(ValueError, match="some-file"):
        mnist.parse_idx(content, "some-file")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_files_are_named(tmp_path, name):
    """Oracle: the official sums of torchvision, the folder, one sentence, no chained traceback."""
    reader = getattr(import_torchvision().datasets, name.upper())
    files = reader.resources if name == "mnist" else [*reader.train_list, *reader.test_list]
    with pytest.raises(DataError, match=re.escape(str(tmp_path))) as caught:
        load_dataset(DataOptions(dataset=name, data_dir=str(tmp_path), download=False), seed=0)
    assert all(f"{file} (MD5 {md5})" in str(caught.value) for file, md5 in files)
    assert "--download is off" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_damaged_file_is_named(tmp_path):
    """Oracle: a compressed file of other content has another MD5 sum."""
    write_mnist(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"nonsense"))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz has the wrong MD5 sum"):
        load_dataset(DataOptions(dataset="mnist", data_dir=str(tmp_path), download=False), seed=0)


def test_download_when_absent(tmp_path, monkeypatch):
    """Oracle: the stand-in for the download is called once, on DIR, and what it wrote is read."""
    calls = []

    def download(self):
        calls.append(Path(self.root))
        write_mnist(Path(self.root) / "MNIST" / "raw")

    monkeypatch.setattr(import_torchvision().datasets.MNIST, "download", download)
    options = DataOptions(dataset="mnist", data_dir=str(tmp_path / "new"))
    assert len(load_dataset(options, seed=0).train) == 5
    assert len(load_dataset(options, seed=0).train) == 5
    assert calls == [tmp_path / "new"]


def test_ranks_that_start_together_download_once(tmp_path, monkeypatch):
    """Oracle: four threads, each with a lock of its own as processes have, one download, four data sets."""
    calls = []

    def download(self):
        calls.append(self.root)
        write_mnist(Path(self.root) / "MNIST" / "raw")

    monkeypatch.setattr(import_torchvision().datasets.MNIST, "download", download)
    options = DataOptions(dataset="mnist", data_dir=str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        sets = list(pool.map(lambda _: load_dataset(options, seed=0), range(4)))
    assert len(calls) == 1
    assert [len(data.train) for data in sets] == [5] * 4


def test_failed_download(tmp_path, monkeypatch):
    """Oracle: the reason, in its first line, and what to do instead; no chained traceback."""

    def download(self):
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(import_torchvision().datasets.CIFAR10, "download", download)
    with pytest.raises(DataError, match=r"download failed \(no route to host\); put these files in") as caught:
        load_dataset(DataOptions(dataset="cifar10", data_dir=str(tmp_path)), seed=0)
    assert caught.value.__context__ is None


def test_real_cifar10(real_data):
    """Oracle: 5,000 + 1,000 images a class, and the widely published channel means 0.4914, 0.4822, 0.4465."""
    data = load_dataset(DataOptions(dataset="cifar10", data_dir=str(real_data), download=False), seed=0)
    assert torch.bincount(data.train.y).tolist() == [5000] * 10
    assert torch.bincount(data.test.y).tolist() == [1000] * 10
    assert data.train.x.is_contiguous()
    means = data.train.x[:, :, ::4, ::4].double().mean((0, 2, 3)) / 255
    assert means.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-3)


def test_real_mnist(real_data):
    """Oracle: 60,000 + 10,000 images, first labels 5 0 4 1 9 and 7 2 1 0 4, and the published mean 0.1307."""
    data = load_dataset(DataOptions(dataset="mnist", data_dir=str(real_data), download=False), seed=0)
    assert data.train.x.shape == (60_000, 1, 28, 28)
    assert data.test.x.shape == (10_000, 1, 28, 28)
    assert data.train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert float(data.train.x.double().mean()) / 255 == pytest.approx(0.1307, abs=1e-4)
