"""The user's own pictures. Oracle: folders made by hand, of pictures of one shade each."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl.common.config import DataOptions
from fl.common.errors import ConfigError, DataError
from fl.data import Dataset, check_dataset, load_dataset

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
        ("imagefolder:a,background=red", "background must be white or black, not red"),
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


def _shade(path: Path, shade: int, **options: object) -> None:
    """A grey picture of one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), shade).save(path, **options)


@pytest.mark.parametrize("root", [".", "train"])
def test_folders_in_the_folder_of_a_class(tmp_path: Path, root: str) -> None:
    """Oracle: torchvision's ImageFolder has these pictures too, each with the class of its outermost folder; the order
    is that of the paths' bytes."""
    for shade, name in enumerate(("cat/2.png", "cat/a/b/c/1.png", "cat/B/1.png", "dog/é/1.png", "dog/z/0.png")):
        _shade(tmp_path / root / name, shade)
    if root == "train":
        _shade(tmp_path / "test" / "dog" / "x" / "0.png", 100)
        _shade(tmp_path / "val" / "cat" / "y" / "0.png", 200)
        data = read(tmp_path)
        assert data.train.x[:, 0, 0, 0].tolist() == [0, 2, 1, 4, 3]
        assert data.train.y.tolist() == [0, 0, 0, 1, 1]
        assert data.validation is not None
        assert (int(data.test.x.max()), int(data.validation.x.max())) == (100, 200)
    else:
        data = read(tmp_path)
        assert sorted(torch.cat([data.train.x, data.test.x])[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4]
    assert data.left_out == ()


def test_splits_inside_classes(tmp_path: Path) -> None:
    """Oracle: refused in one sentence; read as one class, pictures to test on would be trained on. One such name alone may
    be anything."""
    for name in ("cat/train/0.png", "cat/test/1.png", "dog/train/0.png", "dog/test/1.png"):
        _shade(tmp_path / "both" / name, 1)
    assert f"{tmp_path / 'both' / 'cat'} holds the splits test and train; pictures belong in" in _refused(
        tmp_path / "both"
    )
    for name in ("vehicle/train/0.png", "vehicle/bus/1.png", "animal/0.png"):
        _shade(tmp_path / "one" / name, 1)
    assert read(tmp_path / "one").class_names == ("animal", "vehicle")


def test_links_and_loops(tmp_path: Path) -> None:
    """Oracle: every folder of a class once, whatever links lead there; a link to what is above would bring other classes."""
    for shade, name in enumerate(("cat/0.png", "cat/z/1.png", "dog/2.png", "more/3.png")):
        _shade(tmp_path / "p" / name if shade < 3 else tmp_path / name, shade)
    for link, target in (("loop", "."), ("up", "../.."), ("again", "z"), ("more", "../../more")):
        (tmp_path / "p" / "cat" / link).symlink_to(target)
    data = read(tmp_path / "p", ",test=0.01")
    cat = torch.cat([split.x[split.y == 0] for split in (data.train, data.test)])
    assert sorted(cat[:, 0, 0, 0].tolist()) == [0, 1, 3]
    assert data.left_out == ("imagefolder: passed over: 3 links to a folder that is read anyway",)
    (tmp_path / "p" / "dog" / "gone.png").symlink_to("nowhere.png")
    assert f"{tmp_path / 'p' / 'dog' / 'gone.png'} cannot be read as a picture (no such file)" in _refused(
        tmp_path / "p"
    )


ENDINGS = ".JPG .jfif .tif .TIFF .gif .webp .bmp .ppm .pgm .jp2 .ico .tga"


@pytest.mark.parametrize("ending", ENDINGS.split())
def test_every_ending_that_pillow_reads(tmp_path: Path, ending: str) -> None:
    """Oracle: nothing is passed over, and the shade is the one that was saved (lossy forms: nearly)."""
    for shade, name in ((40, "cat/0"), (40, "cat/1"), (200, "dog/0"), (200, "dog/1")):
        path = (tmp_path / name).with_suffix(ending)
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (16, 16), shade).save(path)
    data = read(tmp_path, ",size=8,channels=1")
    assert data.left_out == ()
    assert (data.train.x.int() - torch.tensor([40, 200]).view(2, 1, 1, 1)).abs().max() <= 2


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    """Oracle: the files made here, in the sentence that a run says on the terminal."""
    write(tmp_path / "train", {"cat": 2, "dog": 2})
    (tmp_path / "notes").mkdir()
    for name in ("README.md", "train/loose.png", "train/.DS_Store", "train/cat/._00.png", "train/cat/Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    for name in ("train/dog/a.heic", "train/dog/b.heic", "train/dog/names", "train/__MACOSX"):
        (tmp_path / name).mkdir() if "MACOSX" in name else (tmp_path / name).write_bytes(b"")
    assert read(tmp_path).left_out == (
        "imagefolder: passed over: 3 hidden, 2 with the ending .heic, 1 with the ending .md, 1 pictures outside the folder "
        "of a class, 1 with the ending .db, 1 without an ending, folder notes",
    )


@pytest.mark.parametrize("background", ["white", "black"])
def test_a_shape_in_the_transparency_alone(tmp_path: Path, background: str) -> None:
    """Black shapes on nothing are seen on white, and on black they are a single colour, which is said: never blank without
    a word."""
    shape = np.zeros((8, 8, 4), np.uint8)
    shape[2:6, 2:6, 3] = 255
    for name in ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(shape).save(tmp_path / name)
    data = read(tmp_path, f",size=8,background={background}")
    if background == "white":
        assert data.train.x[0, 0].tolist() == (255 - shape[..., 3]).tolist()
        assert data.left_out == ()
    else:
        assert int(data.train.x.max()) == 0
        assert data.left_out == (
            f"imagefolder: 4 pictures with transparency are of a single colour on black, {tmp_path / 'cat' / '0.png'} "
            "among them; background=white may show what they hold",
        )


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Folders and files as old archives leave them. Oracle: classes in the order of their bytes, with names that can be
    encoded, and so printed and written; \\n in a name is no new line."""
    for name in (b"caf\xe9", b"caf\xc3\xa9", b"a\nb"):
        folder = tmp_path / os.fsdecode(name)
        for number in range(2):
            _shade(folder / os.fsdecode(b"%d\xff.png" % number), number)
    data = read(tmp_path)
    assert data.class_names == ("a\\nb", "café", "caf\\xe9")
    assert torch.bincount(data.train.y).tolist() == [1, 1, 1]
