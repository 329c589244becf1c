"""Data of the user's own, read as others are. Oracle: numbers worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl.common.config import DataOptions
from fl.common.errors import DataError
from fl.data import Dataset, Schema, load_dataset
from fl.data.normalise import make_normaliser
from fl.data.schema import read_schema, schema_of
from tests.fl.data.csv_files import write

_SERVER = [f"{10 * at},{at % 2},{'red' if at % 3 else 'blue'},{'yes' if at % 2 else 'no'}" for at in range(20)]


def _read(dataset: str, schema: Schema | None = None) -> Dataset:
    return load_dataset(DataOptions(dataset=dataset, context=4), seed=0, schema=schema)


def _schema(dataset: str) -> Schema:
    data = _read(dataset)
    return read_schema(schema_of(data, make_normaliser(data.train.x)).to_json())


def _table(folder: Path) -> Schema:
    write(folder / "server.csv", "size,kind,colour,ill", _SERVER)
    return _schema(f"csv:{folder}/server.csv,target=ill,categories=colour")


def test_a_table_is_read_as_another(tmp_path: Path) -> None:
    """The scale, the words and the classes are the other's: also where columns stand in another order, there are more, a
    class is missing, and a word is new. Every row is a training sample."""
    schema = _table(tmp_path)
    rows = [
        ("green", 1, 5.5, "yes"),
        ("red", 0, -3, "yes"),
        ("blue", 1, 70, "yes"),
        ("", 0, 8, "yes"),
        ("red", 1, 9, ""),
    ]
    write(tmp_path / "site.csv", "colour,ours,kind,size,ill", [f"{c},7,{k},{s},{y}" for c, k, s, y in rows])
    data = _read(f"csv:{tmp_path}/site.csv,target=ill", schema)
    (size, kind), (size_std, kind_std) = schema.encoded["mean"], schema.encoded["std"]
    words = {"blue": [1, 0], "red": [0, 1]}
    wanted = [[(s - size) / size_std, (k - kind) / kind_std, *words.get(c, [0, 0])] for c, k, s, _ in rows[:4]]
    assert data.train.x.tolist() == np.array(wanted, dtype=np.float32).tolist()
    assert data.train.y.tolist() == [1, 1, 1, 1]
    assert (data.classes, data.class_names, data.validation) == (2, ("no", "yes"), None)


def test_numbers_to_predict_keep_the_scale(tmp_path: Path) -> None:
    """The model's outputs mean the same everywhere."""
    for name, numbers in (("server", range(20)), ("site", range(500, 530))):
        write(tmp_path / f"{name}.csv", "a,y", [f"{number},{number}.5" for number in numbers])
    schema = _schema(f"csv:{tmp_path}/server.csv,target=y")
    data = _read(f"csv:{tmp_path}/site.csv,target=y", schema)
    assert data.target == schema.target == _read(f"csv:{tmp_path}/server.csv,target=y").target
    assert sorted(data.train.y.tolist()) == [number + 0.5 for number in range(500, 530)]


def test_classes_in_whole_numbers(tmp_path: Path) -> None:
    """They are the same numbers, however they are written."""
    write(tmp_path / "server.csv", "a,y", [f"{at},{3 * (at % 3)}" for at in range(30)])
    write(tmp_path / "site.csv", "a,y", [f"{at},{6 * (at % 2)}.0" for at in range(6)])
    schema = _schema(f"csv:{tmp_path}/server.csv,target=y")
    data = _read(f"csv:{tmp_path}/site.csv,target=y", schema)
    assert schema.class_names == ("0", "3", "6")
    assert sorted(data.train.y.tolist()) == [0, 0, 0, 2, 2, 2]


@pytest.mark.parametrize(
    ("header", "row", "words", "reason"),
    [
        ("size,kind,ill", "1,0,no", "target=ill", "no column 'colour'"),
        (
            "size,kind,colour,ill",
            "1,tall,red,no",
            "target=ill",
            "column 'kind' holds words, and numbers in the server's",
        ),
        (
            *("size,kind,colour,ill", "1,0,red,maybe", "target=ill"),
            r"column 'ill' holds 'maybe' in line 2 of site.csv, and the server's data have the classes no, yes",
        ),
        (
            *("size,kind,colour,ill,dead", "1,0,red,no,no", "target=dead"),
            "the target is dead, and in the server's data ill",
        ),
        (
            *("size,kind,colour,ill", "1,0,red,no", "target=ill,horizon=1"),
            "the horizon is 1, and in the server's data 0",
        ),
        ("size,kind,colour,ill", "1,0,red,no", "target=ill,window=1", r"the shape of a sample is \[1, 4\], and in"),
    ],
)
def test_a_table_that_differs(tmp_path: Path, header: str, row: str, words: str, reason: str) -> None:
    schema = _table(tmp_path)
    write(tmp_path / "site.csv", header, [row] * 20)
    with pytest.raises(DataError, match=reason):
        _read(f"csv:{tmp_path}/site.csv,{words}", schema)


def _pictures(folder: Path, classes: str, mode: str = "RGB") -> str:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for at in range(2):
            Image.new(mode, (8, 8), 10 * number + at).save(folder / name / f"{at}.png")
    return f"imagefolder:{folder},size=8"


def test_pictures_are_read_as_others(tmp_path: Path) -> None:
    """Labels are the server's, also where only some classes are there, and grey pictures get its colours."""
    schema = _schema(_pictures(tmp_path / "server", "abc"))
    data = _read(_pictures(tmp_path / "site", "cb", "L"), schema)
    assert data.train.x.shape == (4, 3, 8, 8)
    assert sorted(zip(data.train.x[:, 0, 0, 0].tolist(), data.train.y.tolist(), strict=True)) == [
        *((0, 2), (1, 2), (10, 1), (11, 1))
    ]


def test_text_is_read_as_another(tmp_path: Path) -> None:
    (tmp_path / "server.txt").write_text("abcd" * 200)
    (tmp_path / "site.txt").write_text("cab" * 100)
    schema = _schema(f"text:{tmp_path}/server.txt")
    data = _read(f"text:{tmp_path}/site.txt", schema)
    assert data.train.x[0].tolist() == [2, 0, 1, 2]
    assert data.classes == 4


def _new_class(folder: Path) -> tuple[str, str]:
    return _pictures(folder / "server", "abc"), _pictures(folder / "site", "bz")


def _new_size(folder: Path) -> tuple[str, str]:
    return _pictures(folder / "server", "ab"), _pictures(folder / "site", "ab") + "6"


def _new_character(folder: Path) -> tuple[str, str]:
    for name, text in (("server", "ab"), ("site", "aé")):
        (folder / name).write_text(text * 400)
    return f"text:{folder}/server", f"text:{folder}/site"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_new_class, "the server's data have no class z, only a, b, c"),
        (_new_size, r"the shape of a sample is \[3, 86, 86\], and in the server's data \[3, 8, 8\]"),
        (_new_character, "the server's text has no character 'é'; take tokens=bytes everywhere"),
    ],
)
def test_other_data_that_differ(tmp_path: Path, make: Callable[[Path], tuple[str, str]], reason: str) -> None:
    server, site = make(tmp_path)
    with pytest.raises(DataError, match=reason):
        _read(site, _schema(server))


def test_images_are_normalised_alike() -> None:
    """A normaliser of these numbers makes the same bits."""
    from fl.data.normalise import Normaliser

    images = torch.randint(0, 256, (20, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = make_normaliser(images[:9])
    assert torch.equal(Normaliser.of(made.mean, made.std)(images), made(images))


def test_a_site_holds_nothing_out(tmp_path: Path) -> None:
    """Few samples are enough: five rows of which a window takes four, a picture, a text of six characters. Of a function's
    data all splits count."""
    for name, count in (("server", 80), ("site", 5)):
        write(tmp_path / f"{name}.csv", "t,y", [f"{at},{at}.5" for at in range(count)])
        (tmp_path / f"{name}.txt").write_text("abc" * count if name == "server" else "abcabc")
    words = "target=y,time=t,window=4,horizon=1"
    data = _read(f"csv:{tmp_path}/site.csv,{words}", _schema(f"csv:{tmp_path}/server.csv,{words}"))
    assert data.train.y.tolist() == [4.5]
    assert len(_read(f"text:{tmp_path}/site.txt", _schema(f"text:{tmp_path}/server.txt")).train) == 1
    schema = _schema(_pictures(tmp_path / "server", "ab"))
    site = _pictures(tmp_path / "site" / "train", "b")
    Image.new("RGB", (8, 8), 50).save(tmp_path / "site" / "one.png")
    (tmp_path / "site" / "train" / "b" / "0.png").unlink()
    assert _read(site, schema).train.y.tolist() == [1]
    assert _read(f"imagefolder:{tmp_path}/site,size=8", schema).train.y.tolist() == [1]
    whole = _read("tests.user_code:few_digits")
    assert len(_read("tests.user_code:few_digits", _schema("tests.user_code:few_digits")).train) == len(
        whole.train
    ) + len(whole.test)


@pytest.mark.parametrize("text", ["", "[]", '{"kind": 1}', "no JSON"])
def test_what_is_no_schema(text: str) -> None:
    with pytest.raises(DataError, match="no description of its data"):
        read_schema(text)
