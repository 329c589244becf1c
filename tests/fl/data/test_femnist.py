"""FEMNIST. Oracles: files made by hand, the published counts of the real ones, the archive against LEAF's own JSON."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.common.config import DataOptions
from fl.common.errors import DataError
from fl.data import Dataset, load_dataset
from fl.data.femnist import load

SIZES = (5, 4, 3, 1)
"""Training samples of the four writers of a made-up archive; each has one to test on."""


def arrays(sizes: tuple[int, ...] = SIZES) -> dict[str, np.ndarray]:
    """An archive of as many writers: sample n is filled with n, has label n mod 62, and the writers' samples alternate."""
    writers = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int16)

    def images(count: int, first: int) -> np.ndarray:
        shades = np.arange(first, first + count).astype(np.uint8)
        return np.broadcast_to(shades[:, None, None], (count, 28, 28))

    return {
        "x_train": images(len(writers), 0),
        "y_train": np.arange(len(writers), dtype=np.uint8) % 62,
        "writer_train": writers,
        "x_test": images(len(sizes), 200),
        "y_test": np.arange(len(sizes), dtype=np.uint8),
        "writers": np.array([f"f{number:04}" for number in range(len(sizes))]),
    }


def write_archive(folder: Path, name: str = "femnist.npz", **changes: np.ndarray | None) -> None:
    """A made-up archive in `folder`; `changes` replace arrays, None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {key: value for key, value in {**arrays(), **changes}.items() if value is not None}
    np.savez_compressed(folder / name, **content)  # type: ignore[arg-type]


def write_leaf(root: Path, users: dict[str, int], name: str = "all_data_0.json", part: str = "train") -> None:
    """A LEAF file of users with so many samples; sample n of a user is filled with n / 255 and has label n."""
    (root / part).mkdir(parents=True, exist_ok=True)
    samples = {user: {"x": [[n / 255] * 784 for n in range(k)], "y": list(range(k))} for user, k in users.items()}
    content = {"users": list(users), "num_samples": list(users.values()), "user_data": samples}
    (root / part / name).write_text(json.dumps(content))


@pytest.mark.parametrize("place", [".", "femnist", "femnist/data"])
def test_archive_in_each_folder(tmp_path: Path, place: str) -> None:
    """Oracle: the values written."""
    write_archive(tmp_path / place)
    data = load(tmp_path, False)
    assert data.train.x.shape == (13, 1, 28, 28)
    assert data.train.x[:, 0, 27, 3].tolist() == data.train.y.tolist() == list(range(13))
    assert data.test.x[:, 0, 0, 0].tolist() == [200, 201, 202, 203]
    assert (data.classes, data.augment) == (62, "none")
    assert data.groups is not None
    assert torch.bincount(data.groups).tolist() == list(SIZES)


def test_leaf_json_of_several_files(tmp_path: Path) -> None:
    """Oracle by hand: shades are whole again; writers are numbered by name, also one whose samples lie in two files."""
    root = tmp_path / "femnist" / "data"
    write_leaf(root, {"f9": 2, "f1": 1})
    write_leaf(root, {"f5": 1, "f9": 1}, "all_data_1.json")
    write_leaf(root, {"f1": 3}, part="test")
    data = load(tmp_path, False)
    assert data.groups is not None
    assert data.groups.tolist() == [2, 2, 0, 1, 2]
    assert data.train.x[:, 0, 5, 5].tolist() == data.train.y.tolist() == [0, 1, 0, 0, 0]
    assert data.test.x[:, 0, 0, 0].tolist() == data.test.y.tolist() == [0, 1, 2]


def _one_sample(shade: str, label: str) -> str:
    return '{"users": ["a"], "user_data": {"a": {"x": [[' + ", ".join([shade] * 784) + ']], "y": [' + label + "]}}}"


def _refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, True)
    message = str(caught.value)
    assert message.startswith("--dataset femnist: ")
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def test_missing(tmp_path: Path) -> None:
    """Oracle: where it was looked for, and the two forms that would do. A folder of JSON alone is not enough."""
    write_leaf(tmp_path, {"a": 1})
    message = _refused(tmp_path)
    for words in (str(tmp_path), str(tmp_path / "femnist"), "femnist*.npz", "train and test"):
        assert words in message


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y_train": None}, "(no array 'y_train')"),
        ({"x_train": np.zeros((13, 28, 28), np.float32)}, "images must be uint8 [N, 28, 28], not float32"),
        ({"x_test": np.zeros((4, 784), np.uint8)}, "not uint8 [4, 784]"),
        ({"y_train": np.zeros(12, np.uint8)}, "12 labels for 13 images"),
        ({"y_test": np.full(4, 62)}, "0 ... 61, not 62 ... 62"),
        ({"y_test": np.zeros(4)}, "labels must be integers, not float64"),
        ({"writer_train": np.zeros(4, np.int16)}, "groups must be int64 [13]"),
        ({"writer_train": np.full(13, -1)}, "none negative"),
        ({"writer_train": np.full(13, "f1")}, "writers must be integers"),
        ({"writer_train": np.array([{}] * 13)}, "pickle"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8), "y_test": np.zeros(0, np.int64)}, "test split must not be empty"),
    ],
)
def test_malformed_archive(tmp_path: Path, changes: dict[str, np.ndarray | None], says: str) -> None:
    """Oracle: the file and what is wrong, in one sentence; nothing is unpickled."""
    write_archive(tmp_path, **changes)
    message = _refused(tmp_path)
    assert str(tmp_path / "femnist.npz") in message
    assert says in message


def test_damaged_archives(tmp_path: Path) -> None:
    """Oracle: other content, a file cut short, a flipped byte, and a second archive are all refused."""
    file = tmp_path / "femnist.npz"
    for content in (b"", b"nonsense"):
        file.write_bytes(content)
        assert str(file) in _refused(tmp_path)
    write_archive(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in _refused(tmp_path)
    damaged = bytearray(whole)
    damaged[len(whole) // 5] ^= 255  # inside the images
    file.write_bytes(damaged)
    assert "cannot be read" in _refused(tmp_path)
    write_archive(tmp_path, "femnist_2.npz")
    assert "must hold one femnist*.npz, not 2" in _refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "all_data_0.json"),
        ("[]", "all_data_0.json"),
        ('{"users": ["a"]}', "user_data"),
        ('{"users": ["a"], "user_data": {"a": {"x": [[0.5]], "y": [0]}}}', "reshape"),
        ('{"users": [], "user_data": {}}', "names no users"),
        (_one_sample("2", "0"), "0 ... 1"),
        (_one_sample("NaN", "0"), "0 ... 1"),
        (_one_sample("1", "0.5"), "labels must be integers"),
    ],
)
def test_malformed_leaf_json(tmp_path: Path, content: str, says: str) -> None:
    """Oracle: one sentence that says what is wrong."""
    write_leaf(tmp_path, {"a": 1}, part="test")
    write_leaf(tmp_path, {"a": 1})
    (tmp_path / "train" / "all_data_0.json").write_text(content)
    assert says in _refused(tmp_path)


def _whole(folder: Path) -> Dataset:
    return load_dataset(DataOptions(dataset="femnist", data_dir=str(folder), partition="natural"), seed=0)


def test_the_real_one(real_data: Path) -> None:
    """Oracle: the counts in the README beside the data: 105 writers, 14,708 + 1,685 samples, 62 classes."""
    data = _whole(real_data)
    assert data.groups is not None
    sizes = torch.bincount(data.groups)
    assert (len(data.train), len(data.test), len(sizes), int(sizes.min())) == (14_708, 1_685, 105, 4)
    assert len(data.train.y.unique()) == 62
    assert float(data.train.x.float().median()) == 255  # ink on white paper


def test_the_archive_holds_what_leaf_writes(real_data: Path) -> None:
    """Oracle: one original shard of LEAF: its five writers' samples, bit for bit, in its own order."""
    data, shard = load(real_data, False), load(real_data / "femnist" / "leaf_json", False)
    assert data.groups is not None
    assert shard.groups is not None
    assert torch.bincount(shard.groups).tolist() == [164, 162, 161, 155, 137]  # f3135 f3137 f3220 f3313 f3579, by name

    def writers(split: torch.Tensor, labels: torch.Tensor, groups: torch.Tensor) -> set[tuple[bytes, bytes]]:
        return {(split[groups == g].numpy().tobytes(), labels[groups == g].numpy().tobytes()) for g in groups.unique()}

    few = data.groups < 5
    assert writers(data.train.x[few], data.train.y[few], data.groups[few]) == writers(
        shard.train.x, shard.train.y, shard.groups
    )
    tested = {image.numpy().tobytes() for image in data.test.x}
    assert len(shard.test) == 89
    assert all(image.numpy().tobytes() in tested for image in shard.test.x)
