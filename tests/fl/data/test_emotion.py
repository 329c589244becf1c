"""FER2013. Oracles: archives and csv files made by hand; the counts of the real subset."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fl.common.config import DataOptions
from fl.common.errors import DataError
from fl.data import load_dataset
from fl.data.emotion import load

NAMES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
PARTS = {"train": (5, 0), "public": (2, 100), "private": (3, 200)}
USAGES = {"train": "Training", "public": "PublicTest", "private": "PrivateTest"}


def write_archive(folder: Path, name: str = "fer2013.npz", **changes: np.ndarray | None) -> Path:
    """An archive of a few faces; number n of a part that begins at shade s has all pixels s + n and label n. `changes`
    replace arrays, None leaves one out."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray | None] = {"classes": np.array(NAMES)}
    for part, (count, shade) in PARTS.items():
        faces = np.arange(shade, shade + count, dtype=np.uint8)
        arrays[f"x_{part}"] = np.broadcast_to(faces[:, None, None], (count, 48, 48))
        arrays[f"y_{part}"] = np.arange(count, dtype=np.uint8)
    content = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    np.savez_compressed(folder / name, **content)  # type: ignore[arg-type]
    return folder / name


def row(label: object, shade: int, usage: str, pixels: int = 48 * 48) -> str:
    """One face of the original file."""
    return f"{label},{' '.join([str(shade)] * pixels)},{usage}\n"


def write_csv(folder: Path, *more: str, header: str = "emotion,pixels,Usage\n") -> Path:
    """The faces of `write_archive` in the original form, the parts by turns, and then these lines."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [row(n, shade + n, USAGES[part]) for n in range(5) for part, (count, shade) in PARTS.items() if n < count]
    (folder / "fer2013.csv").write_text(header + "".join(lines) + "".join(more))
    return folder / "fer2013.csv"


@pytest.mark.parametrize("write", [write_archive, write_csv])
@pytest.mark.parametrize("place", [".", "emotion", "fer2013", "fer2013_subset"])
def test_both_forms_in_each_folder(tmp_path: Path, write, place: str) -> None:
    """Oracle: the shades written; the public part validates, the private one tests."""
    write(tmp_path / place)
    data = load(tmp_path, False)
    assert data.validation is not None
    assert data.train.x.shape == (5, 1, 48, 48)
    for split, (count, shade) in zip((data.train, data.validation, data.test), PARTS.values(), strict=True):
        assert split.x[:, 0, 47, 3].tolist() == [shade + n for n in range(count)]
        assert split.y.tolist() == list(range(count))
    assert data.classes == 7
    assert data.groups is None


def test_names_of_the_labels(tmp_path: Path) -> None:
    """Oracle: the archive's own names; and of the csv file those that its publishers give: 4 is sad, 6 is neutral."""
    write_archive(tmp_path / "a")
    write_csv(tmp_path / "b")
    assert load(tmp_path / "a", False).class_names == NAMES
    assert load(tmp_path / "b", False).class_names[3:] == ("happy", "sad", "surprise", "neutral")


def test_columns_in_another_order(tmp_path: Path) -> None:
    """Oracle: the same faces from the file in which `Usage` comes second and names have spaces, as one was published."""
    lines = write_csv(tmp_path / "a").read_text().splitlines()
    turned = [",".join((e, u, p)) for e, p, u in (line.split(",") for line in lines[1:])]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion, Usage, pixels", *turned, "", ""]))
    assert torch.equal(load(tmp_path, False).train.x, load(tmp_path / "a", False).train.x)


def _refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, True)
    message = str(caught.value)
    assert message.startswith("--dataset emotion: ")
    assert "\n" not in message
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return message


def test_missing_and_ambiguous(tmp_path: Path) -> None:
    """Oracle: where it was looked for and what would do; of two files neither is taken by chance."""
    for words in (str(tmp_path / "emotion"), "fer2013.csv", "fer2013*.npz"):
        assert words in _refused(tmp_path)
    write_archive(tmp_path)
    write_csv(tmp_path)
    assert "not fer2013.csv and fer2013.npz" in _refused(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y_public": None}, "y_public"),
        ({"classes": None}, "classes"),
        ({"classes": np.array(NAMES[:4])}, "train labels must lie in 0 ... 3, not 0 ... 4"),
        ({"x_train": np.zeros((5, 48, 48), np.float32)}, "images must be uint8 [N, 48, 48], not float32"),
        ({"x_train": np.zeros((5, 2304), np.uint8)}, "not uint8 [5, 2304]"),
        ({"y_train": np.zeros(4, np.uint8)}, "4 labels for 5 images"),
        ({"y_private": np.zeros(3)}, "labels must be integers, not float64"),
        ({"y_private": np.array([{}] * 3)}, "pickle"),
    ],
)
def test_malformed_archive(tmp_path: Path, changes: dict[str, np.ndarray | None], says: str) -> None:
    """Oracle: the file and what is wrong, in one sentence; nothing is unpickled."""
    file = write_archive(tmp_path, **changes)
    message = _refused(tmp_path)
    assert str(file) in message
    assert says in message


def test_damaged_archive(tmp_path: Path) -> None:
    """Oracle: a file cut short is refused by name."""
    file = write_archive(tmp_path)
    file.write_bytes(file.read_bytes()[:-200])
    assert str(file) in _refused(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        row(0, 256, "Training"),
        row(0, -1, "Training"),
        row(0, 5, "Training", pixels=2303),
        row(0, 5, "Testing"),
        row("", 5, "Training"),
        row("happy", 5, "Training"),
        "0,5\n",
    ],
)
def test_malformed_rows(tmp_path: Path, line: str) -> None:
    """Oracle: the number of the line in the file (a header and ten faces come first), and what would be right."""
    file = write_csv(tmp_path, line)
    message = _refused(tmp_path)
    assert str(file) in message
    assert "line 12: " in message
    assert "2304 pixels 0 ... 255" in message


def test_malformed_files(tmp_path: Path) -> None:
    """Oracle: columns that are missing, an empty file, a label beyond the seven, a part without faces."""
    write_csv(tmp_path, header="emotion,pixel,Usage\n")
    assert "must name the columns emotion, pixels and Usage" in _refused(tmp_path)
    (tmp_path / "fer2013.csv").write_text("")
    assert "must name the columns" in _refused(tmp_path)
    write_csv(tmp_path, row(7, 1, "Training"))
    assert "train labels must lie in 0 ... 6, not 0 ... 7" in _refused(tmp_path)
    (tmp_path / "fer2013.csv").write_text("emotion,pixels,Usage\n" + row(1, 1, "Training") + row(1, 1, "PublicTest"))
    assert "test split must not be empty" in _refused(tmp_path)


def test_the_real_subset(real_data: Path) -> None:
    """Oracle: the README beside the data: 1,050, 140 and 140 faces; each emotion as often as the others."""
    data = load_dataset(DataOptions(dataset="emotion", data_dir=str(real_data)), seed=0)
    assert data.validation is not None
    assert torch.bincount(data.train.y).tolist() == [150] * 7
    assert torch.bincount(data.validation.y).tolist() == torch.bincount(data.test.y).tolist() == [20] * 7
    assert data.class_names == NAMES
    shown = {face.numpy().tobytes() for face in data.train.x}
    assert len(shown) > 1000
