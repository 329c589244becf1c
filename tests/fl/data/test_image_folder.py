"""The user's own pictures. Oracle: folders made by hand, of pictures of one shade each."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl.config import DataOptions
from fl.data import Dataset, check_dataset, load_dataset
from fl.errors import ConfigError, DataError

SHADES = {"cat": 10, "dog": 60, "owl": 110}


def write(root: Path, counts: dict[str, int], first: int = 0, colour: bool = True, ending: str = ".png") -> None:
    """A folder for each class; picture n of a class has its shade plus `first` + n, in red only."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(first, first + count):
            pixels = np.full((12, 9, 3), SHADES[name] + number, np.uint8)
            pixels[..., 1:] = 0
            Image.fromarray(pixels if colour else pixels[..., 0]).save(root / name / f"{number:02}{ending}")


def read(folder: Path, words: str = "") -> Dataset:
    """What a run would get."""
    return load_dataset(DataOptions(dataset=f"imagefolder:{folder}{words}"), seed=0)


def test_train_val_and_test(tmp_path: Path) -> None:
    """Oracle: the shades and labels written; classes in alphabetical order; other files and hidden folders do not count."""
    write(tmp_path / "train", {"owl": 1, "cat": 2, "dog": 1})
    write(tmp_path / "val", {"dog": 1}, 20)
    write(tmp_path / "test", {"dog": 1, "cat": 1}, 30)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "cat" / "._00.png").write_bytes(b"what macOS leaves on foreign disks")
    data = read(tmp_path, ",size=16")
    assert data.validation is not None
    assert data.train.x.shape == (4, 3, 16, 16)
    assert data.train.x[:, 0, 8, 8].tolist() == [10, 11, 60, 110]
    assert data.train.y.tolist() == [0, 0, 1, 2]
    assert int(data.train.x[:, 1:].max()) == 0
    assert (data.validation.x[:, 0, 0, 0].tolist(), data.validation.y.tolist()) == ([80], [1])
    assert (data.test.x[:, 0, 0, 0].tolist(), data.test.y.tolist()) == ([40, 90], [0, 1])
    assert (data.classes, data.class_names) == (3, ("cat", "dog", "owl"))
    assert data.name == tmp_path.name
    assert data.notes[0].startswith(
        "imagefolder: 4 to train on, 2 to test on, 1 to validate on; 3 classes; 16x16 pixels"
    )


@pytest.mark.parametrize("root", [".", "train"])
def test_a_fraction_for_testing(tmp_path: Path, root: str) -> None:
    """Oracle: the fraction of every class, at least one and never all; the same pictures every time; none in both. A
    folder train alone is divided likewise."""
    write(tmp_path / root, {"cat": 10, "dog": 5, "owl": 1})
    data, again, half = read(tmp_path), read(tmp_path), read(tmp_path, ",test=0.5")
    assert torch.bincount(data.train.y).tolist() == [8, 4, 1]
    assert torch.bincount(data.test.y).tolist() == [2, 1]
    assert torch.equal(data.test.x, again.test.x)
    together = torch.cat([data.train.x, data.test.x])[:, 0, 0, 0]
    assert sorted(together.tolist()) == [*range(10, 20), *range(60, 65), 110]
    assert torch.bincount(half.test.y).tolist() == [5, 2]
    assert data.train.x.shape[1:] == (3, 64, 64)


def test_a_class_called_train(tmp_path: Path) -> None:
    """Oracle: a folder train that holds pictures, not folders, is a class beside the others."""
    write(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat").rename(tmp_path / "train")
    assert read(tmp_path).class_names == ("dog", "train")


def test_channels(tmp_path: Path) -> None:
    """Oracle: one if all pictures are grey, those to test on included; else three, unless the specification says so."""
    write(tmp_path / "train", {"cat": 2, "dog": 2}, colour=False, ending=".JPG")
    write(tmp_path / "test", {"cat": 1}, 20, colour=False)
    assert read(tmp_path).train.x.shape == (4, 1, 64, 64)
    assert read(tmp_path, ",channels=3").train.x.shape == (4, 3, 64, 64)
    write(tmp_path / "test", {"dog": 1}, 20)
    assert read(tmp_path).test.x.shape == (2, 3, 64, 64)
    assert read(tmp_path, ",channels=1").test.x.shape == (2, 1, 64, 64)


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("imagefolder", "did you mean 'imagefolder:PATH'"),
        ("imagefolder:", "empty value"),
        ("imagefolder:a,size=7", "size must lie between 8 and 1024, not 7"),
        ("imagefolder:a,size=16.5", "size must be a whole number, not 16.5"),
        ("imagefolder:a,size=big", "size must be a number, not 'big'"),
        ("imagefolder:a,channels=2", r"channels must be 1 \(grey\) or 3 \(colour\), not 2"),
        ("imagefolder:a,test=20%", "did you mean 0.2"),
        ("imagefolder:a,test=0", "test must lie between"),
        ("imagefolder:a,tset=0.1", "did you mean 'test'"),
        (
            "imagefolder:a,b",
            "takes one PATH, which must hold no comma and no '=', and after it only key=value, not 'b'",
        ),
        ("imagefolder:a=b", "takes one PATH, which must hold no comma and no '=', .* not 'a=b'"),
        ("imagefold:a", "there is no module 'imagefold' .*; did you mean imagefolder:PATH[?]$"),
        ("image_folder:a/b,size=8", "did you mean imagefolder:PATH[?]$"),
        ("cvs:wine.csv,target=y", "did you mean csv:PATH[?]$"),
    ],
)
def test_specifications_that_cannot_be_read(dataset: str, says: str) -> None:
    """Oracle: one sentence, before any file is looked at."""
    with pytest.raises(ConfigError, match=says):
        check_dataset(DataOptions(dataset=dataset))


def test_no_groups() -> None:
    """Oracle: folders of classes have no groups to share out by, and that is known before anything is read."""
    with pytest.raises(ConfigError, match="needs a data set whose samples come in groups"):
        check_dataset(DataOptions(dataset="imagefolder:a", partition="natural"))


def _refused(folder: Path, words: str = "") -> str:
    with pytest.raises(DataError) as caught:
        read(folder, words)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    """Oracle: one sentence that names the folder or the file."""
    assert f"there is no folder {tmp_path / 'none'}" in _refused(tmp_path / "none")
    assert "at least two classes, not 0" in _refused(tmp_path)
    write(tmp_path / "train", {"cat": 2})
    assert "at least two classes, not 1" in _refused(tmp_path)
    write(tmp_path / "train", {"dog": 2})
    write(tmp_path / "test", {"cat": 1, "owl": 1})
    assert f"for {tmp_path / 'test' / 'owl'} there is no folder {tmp_path / 'train' / 'owl'}" in _refused(tmp_path)
    (tmp_path / "train" / "owl").mkdir()
    assert f"{tmp_path / 'train' / 'owl'} holds no pictures (.png, .jpg" in _refused(tmp_path)
    (tmp_path / "train" / "owl" / "0.jpeg").write_bytes(b"no picture")
    assert f"{tmp_path / 'train' / 'owl' / '0.jpeg'} cannot be read" in _refused(tmp_path)
    assert "has a folder test already; leave test=0.3 out" in _refused(tmp_path, ",test=0.3")


@pytest.mark.parametrize(
    ("folders", "at", "says"),
    [
        (["train", "test", "valid"], "valid", "would not be used"),
        (["train", "validation"], "validation", "would not be used"),
        (["train", "Test"], "Test", "would not be used"),
        (["Train", "Test"], "Test", "is a split by its name, not a class"),
        (["training"], "training", "is a split by its name, not a class"),
        (["test", "val"], "test", "is a split by its name, not a class"),
    ],
)
def test_splits_by_other_names(tmp_path: Path, folders: list[str], at: str, says: str) -> None:
    """Nothing is passed over, and no split is taken for a class. Oracle: the words of the message."""
    for folder in folders:
        write(tmp_path / folder, {"cat": 2, "dog": 2})
    assert _refused(tmp_path).endswith(
        f": {tmp_path / at} {says}; pictures belong in train/<class>, test/<class> and val/<class>"
    )


def test_splits_without_classes(tmp_path: Path) -> None:
    """Pictures right in train and test are not those of two classes; nor does a test folder of no class go unused. Other
    folders beside train, which may hold anything, are named in the log."""
    write(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat").rename(tmp_path / "train")
    (tmp_path / "dog").rename(tmp_path / "test")
    assert f"{tmp_path / 'test'} is a split by its name, not a class; " in _refused(tmp_path)
    (tmp_path / "train").rename(tmp_path / "notes")
    write(tmp_path / "train", {"cat": 2, "dog": 2})
    refused = _refused(tmp_path)
    assert f"{tmp_path / 'test'} holds no folder of a class; " in refused
    assert "test=0.2 sets a fifth of train aside" in refused
    assert read(tmp_path, ",test=0.5").notes[0].endswith("; not used: notes, test")
    write(tmp_path / "test", {"cat": 1})
    assert read(tmp_path).notes[0].endswith("; not used: notes")


def test_splits_without_pictures(tmp_path: Path) -> None:
    """Oracle: one sentence that names the option, the folder and what it lacks."""
    write(tmp_path / "few", {"cat": 1, "dog": 1})
    assert _refused(tmp_path / "few") == (
        f"--dataset imagefolder:{tmp_path / 'few'}: {tmp_path / 'few'} has no picture to test on; to set some aside to test "
        "on, a class needs two"
    )
    write(tmp_path / "own" / "train", {"cat": 2, "dog": 2})
    write(tmp_path / "own" / "test", {"cat": 0})
    assert f"{tmp_path / 'own'} has no picture to test on" in _refused(tmp_path / "own")
    write(tmp_path / "own" / "test", {"dog": 1})
    write(tmp_path / "own" / "val", {"dog": 0})
    assert f"{tmp_path / 'own'} has no picture to validate on" in _refused(tmp_path / "own")
