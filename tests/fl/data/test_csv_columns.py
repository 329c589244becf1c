"""Which columns and targets of the user's own table will do. Oracle: the tables and words beside each case."""

from pathlib import Path

import pytest
import torch

from fl.common.config import DataOptions
from fl.common.errors import ConfigError, DataError
from fl.data import check_dataset
from tests.fl.data.csv_files import read, write


@pytest.mark.parametrize(
    ("values", "task", "names"),
    [
        (["1", "0", "1", "0"], "", ("0", "1")),
        (["10", "2", "2", "10"], "", ("2", "10")),
        (["1", "0", "1", "0"], ",task=regression", ()),
        (["1.5", "0", "1", "0"], "", ()),
        (["yes", "no", "yes", "no"], "", ("no", "yes")),
    ],
)
def test_which_task(tmp_path: Path, values: list[str], task: str, names: tuple[str, ...]) -> None:
    """Words and few whole numbers are classes, which the log says; fractions are not; `task` overrides that."""
    rows = [f"{n},{value}" for n, value in enumerate(values * 6)]
    data = read(write(tmp_path / "t.csv", "x,y", rows), f"target=y{task}")
    assert (data.classes, data.class_names) == (len(names), names)
    assert ("for it has few whole numbers" in data.notes[0]) == (bool(names) and values[0] != "yes")
    assert data.train.y.dtype == (torch.int64 if names else torch.float32)


def test_more_than_twenty_whole_numbers_are_no_classes(tmp_path: Path) -> None:
    """21 values: numbers to predict, unless the user says otherwise."""
    path = write(tmp_path / "t.csv", "x,y", [f"{n},{n % 21}" for n in range(84)])
    assert read(path, "target=y").classes == 0
    assert read(path, "target=y,task=classification").classes == 21


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "say which column to predict, target=COLUMN"),
        ("target=y,tset=0.1", "csv has no option 'tset'; did you mean 'test'?"),
        ("target=y,window=2.5", "window must be a whole number, not 2.5"),
        ("target=y,window=0", "window must lie between 1 and"),
        ("target=y,task=clasification", "task must be regression or classification, not 'clasification'; did you mean"),
        ("target=y,features=x+y", "the target can only be a feature with a horizon"),
        ("target=y,features=x+x", "features must name each column once"),
        ("target=y,val=0.1", "single rows without time are validated by --val-fraction, not by val"),
        ("target=y,window=2,test=0.5,val=0.5", "test and val leave less than a tenth to train on"),
        ("target=y,features=a,b", "after it only key=value, not 'b'"),
        ("2.csv,target=y", "csv takes one PATH, which must hold no comma and no '=', .* not '2.csv'"),
    ],
)
def test_specifications_are_refused_before_anything_is_read(words: str, says: str) -> None:
    """Oracle: the words of the message; there is no file."""
    with pytest.raises(ConfigError, match=f"^--dataset 'csv:none.*{says.replace('?', '[?]')}"):
        check_dataset(DataOptions(dataset=f"csv:none.csv,{words}" if words else "csv:none.csv"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("target=z", "has no column 'z'"),
        ("target=y,time=word", "column 'word' holds neither numbers nor times"),
        (
            "target=y,features=word",
            r"column 'word' cannot be a feature: 1 value\(s\) in the training rows, words must have 2",
        ),
        ("target=y,features=hole+x", "column 'hole' holds no values, so it cannot be a feature"),
        ("target=word,task=regression", "task=regression needs numbers in column 'word'"),
        ("target=half,task=classification", "needs whole numbers or words in column 'half'"),
        ("target=id", "column 'id' has 12 different values in 12 rows, which are no classes"),
        ("target=y,features=x,time=same,window=2", "rows of several things at one moment need group=COLUMN"),
        ("target=y,features=often+seldom", "every row lacks some value, most often in column 'seldom'; choose with"),
        ("target=y,features=x,group=hole", "every row lacks some value, most often in column 'hole'$"),
        ("target=@file", "has no column '@file'"),
        ("target=y,features=x,time=@file", "has no column '@file'"),
        ("target=y,features=@file", r"t\.csv has no column '@file'"),
        ("target=y,features=x+oftn", r"t\.csv has no column 'oftn'; did you mean 'often'\?$"),
        ("target=y,features=x,group=id", r"no group of column 'id' has more than 1 complete row\(s\)"),
        (
            "target=half,features=x,group=id,window=2,horizon=1",
            r"no group of column 'id' has more than 1 complete row\(s\)",
        ),
        ("target=y,features=huge", r"column 'huge' of t\.csv holds a number of size 1e\+200"),
        ("target=huge,task=regression", r"column 'huge' of t\.csv holds a number of size 1e\+200"),
    ],
)
def test_columns_that_will_not_do(tmp_path: Path, words: str, says: str) -> None:
    """Oracle: the words of the message."""
    odd = ["7,"] * 7 + [",8"] * 5
    rows = [f"{n},{n % 2},w,,{n / 2},r{n},1,{odd[n]},{'1e200' if n == 7 else n}" for n in range(12)]
    path = write(tmp_path / "t.csv", "x,y,word,hole,half,id,same,often,seldom,huge", rows)
    with pytest.raises(DataError, match=says):
        read(path, words)


def test_a_path_with_an_equals_sign() -> None:
    """Oracle: the words of the message, not a complaint about an option `my`."""
    with pytest.raises(
        ConfigError, match=r"csv takes one PATH, which must hold no comma and no '=', .* not 'my=wine\.csv'"
    ):
        check_dataset(DataOptions(dataset="csv:my=wine.csv,target=y"))


def test_a_target_that_fp32_would_blur(tmp_path: Path) -> None:
    """81 numbers 0.7 apart beside 1.7e9, where numbers of fp32 are 128 apart: all would be one. Less a constant, and all
    equal, they pass; and features are scaled in fp64, so nothing of them is lost."""
    rows = [f"{n % 9},{1.7e9 + 0.7 * n},{0.7 * n},1.7e9" for n in range(81)]
    path = write(tmp_path / "t.csv", "x,y,less,same", rows)
    with pytest.raises(
        DataError, match=r"column 'y': its spread 1\d\.\d is lost beside 1\.7e\+09 in fp32; subtract a con"
    ):
        read(path, "target=y,features=x")
    assert read(path, "target=less,features=x").target[1] == pytest.approx(16.4, rel=0.2)
    assert len(read(path, "target=same,features=x,task=regression").train) == 65
    assert len(read(path, "target=less,features=y").train.x.unique()) == 65


def test_targets_that_fp32_holds_well_enough(tmp_path: Path) -> None:
    """Whole numbers about 10,000,000 are exact, degrees of latitude within a street and air pressure nearly so."""
    rows = [f"{n},{10_000_000 + 31 * n},{48.8566 + 1e-4 * n:.6f},{101_325 + 0.3 * n:.1f}" for n in range(81)]
    path = write(tmp_path / "t.csv", "x,whole,latitude,pressure", rows)
    for name in ("whole", "latitude", "pressure"):
        data = read(path, f"target={name},features=x,task=regression")
        assert len(data.train.y.unique()) == 65


def test_natural_clients_need_a_group(tmp_path: Path) -> None:
    """Oracle: the words of the messages; a path without files."""
    path = write(tmp_path / "t.csv", "x,y", [f"{n},{n % 2}" for n in range(12)])
    with pytest.raises(ConfigError, match=r"needs group=COLUMN, or group=@file .* in --dataset csv:"):
        read(path, "target=y", "natural")
    with pytest.raises(DataError, match="must be a file, or a folder of"):
        read(tmp_path / "nothing", "target=y")
    (tmp_path / "empty.csv").write_text("x,y\n")
    with pytest.raises(DataError, match="there are no rows below the header"):
        read(tmp_path / "empty.csv", "target=y")
