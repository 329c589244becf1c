"""Tables as spreadsheets, R, pandas, NumPy and old programs write them. Oracle of all: the numbers that were written."""

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fl.common.errors import DataError
from fl.data import Dataset
from tests.fl.data.csv_files import read, write

ROWS = [(n * 37 % 100 + 0.25, n * 53 % 97 - 40.5, "yes" if n % 3 else "no") for n in range(60)]
PLAIN = [f"{a},{b},{label}" for a, b, label in ROWS]
TEXT = "\n".join(["a,b,y", *PLAIN]) + "\n"


def same(one: Dataset, other: Dataset) -> bool:
    """Whether two data sets have the same samples."""
    return all(
        torch.equal(getattr(getattr(one, part), name), getattr(getattr(other, part), name))
        for part in ("train", "test")
        for name in ("x", "y")
    )


def zipped(text: str) -> bytes:
    """An archive of one file, as a Mac makes it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("t.csv", text)
        archive.writestr("__MACOSX/._t.csv", "x")
    return packed.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("semicolons.csv", TEXT.replace(",", ";")),
        ("german.csv", TEXT.replace(",", ";").replace(".", ",")),
        ("tabs.tsv", TEXT.replace(",", "\t")),
        ("bars.txt", TEXT.replace(",", "|")),
        ("spaces.dat", TEXT.replace(",", "  ")),
        ("after_commas.csv", TEXT.replace(",", ", ")),
        ("CAPITALS.CSV", TEXT),
        ("excel.csv", "sep=;\r\n" + TEXT.replace(",", ";").replace("\n", "\r\n")),
        ("mac.csv", TEXT.replace("\n", "\r")),
        ("bom.csv", TEXT.encode("utf-8-sig")),
        ("utf16.csv", TEXT.encode("utf-16")),
        ("utf16.txt", TEXT.replace(",", "\t").encode("utf-16")),
        ("utf16_be_without_bom.csv", TEXT.encode("utf-16-be")),
        ("utf32.csv", TEXT.encode("utf-32")),
        ("packed.csv.gz", gzip.compress(TEXT.encode())),
        ("packed.csv.bz2", bz2.compress(TEXT.encode())),
        ("packed.csv.xz", lzma.compress(TEXT.encode())),
        ("packed.zip", zipped(TEXT)),
        ("separators_at_the_end.csv", TEXT.replace("\n", ",\n")),
        ("separators_below_the_header.csv", TEXT.replace("\n", ",\n").replace("y,\n", "y\n")),
        ("rows_of_separators.csv", TEXT.replace(",", ";").replace("\n", ";;\n") + ";;;;\n;;;;\n\n \n"),
        ("comments.csv", "# made by hand\n# in May, 2019\n\n" + TEXT + "# the end\n"),
        ("numpy.csv", "# " + TEXT),
        ("quoted.csv", '"a", "b", "y"\n' + "".join(f'"{a}", "{b}", "{label}"\n' for a, b, label in ROWS)),
        ("minus.csv", TEXT.replace("-", "\u2212")),
        (
            "money.csv",
            "a,b,y\n" + "".join(f"${a},({-b}),{label}\n" if b < 0 else f"${a},{b},{label}\n" for a, b, label in ROWS),
        ),
        ("percent.csv", "a,b,y\n" + "".join(f"{a} %,{b},{label}\n" for a, b, label in ROWS)),
        ("fortran.csv", "a,b,y\n" + "".join(f"{a / 100:.4f}D+02,{b},{label}\n" for a, b, label in ROWS)),
        ("numbered.csv", "\n".join([",a,b,y", *(f"{n},{row}" for n, row in enumerate(PLAIN))])),
        ("unnamed.csv", "\n".join(["Unnamed: 0,a,b,y", *(f"{n},{row}" for n, row in enumerate(PLAIN))])),
        ("twice.csv", "\n".join(["Unnamed: 0.1,X.1,a,b,y", *(f"{n},{n + 1},{row}" for n, row in enumerate(PLAIN))])),
        ("names_of_rows.csv", "\n".join(["a,b,y", *(f"car {n},{row}" for n, row in enumerate(PLAIN))])),
        ("x.csv", "\n".join(["X,a,b,y", *(f"{n + 1},{row}" for n, row in enumerate(PLAIN))])),
        ("customers.csv", "\n".join(["CustomerId,a,b,y", *(f"{n * n + 7},{row}" for n, row in enumerate(PLAIN))])),
        ("patients.csv", "\n".join(["patient_id,a,b,y", *(f"{n * n + 7},{row}" for n, row in enumerate(PLAIN))])),
        ("days.csv", "\n".join(["day,a,b,y", *(f"201901{n % 31 + 1:02d},{row}" for n, row in enumerate(PLAIN))])),
        ("id.csv", "\n".join(["Id,a,b,y", *(f"{n * n + 7},{row}" for n, row in enumerate(PLAIN))])),
        (
            "when.csv",
            "\n".join(["when,a,b,y", *(f"{n % 28 + 1}.{n // 28 + 1}.2019,{row}" for n, row in enumerate(PLAIN))]),
        ),
        ("empty.csv", "\n".join(["void,a,b,y", *(f",{row}" for row in PLAIN)])),
        ("names.csv", "\n".join(["who,a,b,y", *(f"person {n},{row}" for n, row in enumerate(PLAIN))])),
    ],
)
def test_one_table_written_in_many_ways(tmp_path: Path, name: str, content: str | bytes) -> None:
    """Oracle: the same table as plain csv. Columns that are no features are left out aloud."""
    (tmp_path / "plain.csv").write_text(TEXT)
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = read(path, "target=y")
    assert same(data, read(tmp_path / "plain.csv", "target=y"))
    more = {
        "customers",
        "patients",
        "days",
        "twice",
        "numbered",
        "unnamed",
        "names_of_rows",
        "x",
        "id",
        "when",
        "empty",
        "names",
    }
    assert any("columns left out: " in told for told in data.left_out) == (path.stem in more)


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1,520", "999", "85", "7", "12,000"], [1520, 999, 85, 7, 12000]),
        (["1,234,567", "1,525"], [1234567, 1525]),
        (["12,34,567", "1,525"], [1234567, 1525]),
        (["1,525.50", "999.00"], [1525.5, 999]),
        (["1.525,50", "999,00"], [1525.5, 999]),
        (["1.525", "2,5"], [1525, 2.5]),
        (["7,4", "7"], [7.4, 7]),
        (["0,125", "1,525"], [0.125, 1.525]),
        (["1.525", "2.510"], [1.525, 2.51]),
        (["1.525", "0.5"], [1.525, 0.5]),
        (["1 525", "12"], [1525, 12]),
        (["1\u00a0525,5", "1\u202f000"], [1525.5, 1000]),
        (["1'525.5", "1\u2019000"], [1525.5, 1000]),
        (["12,5 €", "1.000 €"], [12.5, 1000]),
        (["1,5e3", "-2"], [1500, -2]),
        (["5-", "+4.5"], [-5, 4.5]),
        (["€ 1.525,-", "€ 12,50", "€ 7,--"], [1525, 12.5, 7]),
        (["€ 1.525,-", "€ 2.110,-"], [1525, 2110]),
        (["\u20135.5", "1", "0.25"], [-5.5, 1, 0.25]),
        (["R$ 1.525,50", "R$ 12,00"], [1525.5, 12]),
        (["1 525,50 zł", "12,00 zł"], [1525.5, 12]),
    ],
)
def test_numbers(tmp_path: Path, cells: list[str], numbers: list[float]) -> None:
    """A column tells by itself how it is written. Oracle: the numbers meant."""
    path = write(tmp_path / "t.csv", "x;y", [f"{n};{cell}" for n, cell in enumerate(cells * 6)])
    data = read(path, "target=y,task=regression,features=x")
    assert set(data.train.y.tolist()) == set(np.float32(numbers).tolist())


def test_the_other_columns_tell_what_a_comma_is(tmp_path: Path) -> None:
    """1,525 beside 2,110 is either; beside a column of 7.5 it is 1525, beside one of 7,5 it is 1.525; alone it is refused by
    its line, and the user may say."""
    cells = [f"{1 + n % 7},{101 + n}" for n in range(40)]
    for other, first in (("7.5", 1101), ("7,5", 1.101)):
        data = read(write(tmp_path / "t.csv", "z;y", [f"{other};{cell}" for cell in cells]), "target=y,features=z")
        assert min(data.train.y.min(), data.test.y.min()) == pytest.approx(first)
    path = write(tmp_path / "t.csv", "z;y", [f"{n};{cell}" for n, cell in enumerate(cells)])
    with pytest.raises(
        DataError, match=r"comma of '1,101' in line 2 of t\.csv parts thousands or decimals; say decimal=po"
    ):
        read(path, "target=y")
    assert read(path, "target=y,decimal=point").train.y.max() > 1000
    assert read(path, "target=y,decimal=comma").train.y.max() < 10
    rows = [f"{n / 4};{'' if n else '7,5'};{cell}" for n, cell in enumerate(cells)]
    path = write(tmp_path / "t.csv", "z;w;y", rows)
    data = read(path, "target=y,features=z,decimal=comma")
    assert (len(data.train.x.unique()), bool(data.train.y.max() < 10)) == (32, True), "what tells by itself stays so"


@pytest.mark.parametrize(
    ("header", "row", "words", "says"),
    [
        (
            "x,y",
            lambda n: f"{'<0.1' if n % 5 == 3 else n},{n / 7}",
            "target=y",
            "8 of 40 cells of column 'x' are no numbers, first '<0.1' in line 5 of t.csv; choose features=A[+]B without it",
        ),
        (
            "x,y",
            lambda n: f"{n},{'bad' if n % 5 == 3 else n / 7}",
            "target=y",
            "'y' are no numbers, first 'bad' in line 5",
        ),
        (
            "x,y",
            lambda n: f"{n},{n} kg",
            "target=y",
            "40 of 40 cells of column 'y' are no numbers, first '0 kg' in line 2",
        ),
        (
            "x,y",
            lambda n: f"{n}{'%' if n % 3 else ''},{n / 7}",
            "target=y",
            "14 of 40 cells of column 'x' are no numbers",
        ),
        (
            "x,y",
            lambda n: f"{n},{n / 7}{',5' if n % 5 == 3 else ''}",
            "target=y",
            "8 of 40 rows have more or fewer cells than the header, first that in line 5 of t.csv",
        ),
        (
            "t,y",
            lambda n: f"{'soon' if n % 5 == 3 else f'2019-1-{n % 30 + 1}'},{n / 7}",
            "target=y,features=y,time=t,horizon=1",
            "8 of 40 cells of column 't' are no times, first 'soon' in line 5 of t.csv",
        ),
        (
            "t,y",
            lambda n: f"{n % 12 + 1}/{n // 12 + 1}/2019,{n / 7}",
            "target=y,features=y,time=t,horizon=1",
            "tells day from month in '2/1/2019' in line 3 of t.csv; say dayfirst=yes or dayfirst=no",
        ),
        (
            "34,State-gov,77516,Bachelors",
            lambda n: f"{n},Private,{7 * n},Masters",
            "target=income",
            "no column 'income': its first line holds numbers .34, State-gov, 77516, ...., and should name the columns",
        ),
        (
            "5,0,0,12",
            lambda n: f"{n % 4},0,{n},7",
            "target=label",
            "names the column '0' twice; its first line holds numbers, and should name",
        ),
        (
            "y",
            lambda n: f"{n % 5},{50 + n}",
            "target=y,window=2,horizon=1",
            "line 2 and others have one cell more than the header, and the first are no names of rows",
        ),
        (
            "y",
            lambda n: f"{2 * n},{50 + n}",
            "target=y,window=2,horizon=1",
            "are no names of rows; put cells with a comma",
        ),
        ("y,a", lambda n: f"{3 * n + 1},{500 + n},{n / 7}", "target=y", "are no names of rows"),
        ("a,b,y", lambda n: f"{n % 5},{10 + n},{n % 7},{'uv'[n % 2]}", "target=y", "are no names of rows"),
        ("1.5,2.5", lambda n: f"{n},{n / 7}", "target=y", "t.csv has no column 'y': its first line holds numbers"),
        (
            "x,y",
            lambda n: f"w{n},{n / 7}",
            "target=y,features=x",
            "column 'x' cannot be a feature: 32 value.s. in the train",
        ),
        (
            "x,y",
            lambda n: f"w{n},{n / 7}",
            "target=y",
            "no column besides target, group and time holds numbers, or a few",
        ),
    ],
)
def test_what_is_read_in_part_only_is_refused(tmp_path: Path, header: str, row, words: str, says: str) -> None:
    """Oracle: the words of the message, with the line counted by hand."""
    path = write(tmp_path / "t.csv", header, [row(n) for n in range(40)])
    with pytest.raises(DataError, match=says):
        read(path, words)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    """Of forty rows two lack a number, one says <0.1 and one has a cell too many; -9999 is a number unless it is named."""
    rows = [f"{n},{n % 2}" for n in range(40)]
    rows[3], rows[7], rows[9], rows[11], rows[20], rows[21] = ",1", "-,1", "<0.1,1", "1,1,1", "-9999,0", "-9999.0,1"
    path = write(tmp_path / "t.csv", "x,y", rows)
    data = read(path, "target=y")
    assert len(data.train) + len(data.test) == 36
    assert data.left_out == (
        "csv: target y: classification, 2 classes, for it has few whole numbers (0, 1); task=regression predicts them as "
        "numbers",
        "csv: column 'x' holds -9999 2 times: if that stands for a missing value, say missing=-9999",
        "csv: 4 of 40 rows left out: 1 with more or fewer cells than the header (first in line 13 of t.csv), 3 without a "
        "value of 'x' (first in line 5 of t.csv)",
    )
    data = read(path, "target=y,missing=-9999")
    assert len(data.train) + len(data.test) == 34
    assert not any("-9999" in told for told in data.left_out)


def test_rows_of_units_make_no_class(tmp_path: Path) -> None:
    """Oracle: the classes of the rows that are used; the others are told."""
    rows = ["deg C,kind", *(f"{n},{'ab'[n % 2]}" for n in range(40))]
    data = read(write(tmp_path / "t.csv", "x,y", rows), "target=y")
    assert data.class_names == ("a", "b")
    assert data.left_out[0] == "csv: target y: classification, 2 classes (a, b)"
    assert data.left_out[-1] == "csv: no classes, for no complete row has them: kind"
    assert sorted(torch.cat([data.train.y, data.test.y]).tolist()) == [0] * 20 + [1] * 20


def test_one_class_in_complete_rows(tmp_path: Path) -> None:
    """Class b never has its number: the error names that column."""
    path = write(tmp_path / "t.csv", "x,y", [f"{n},a" if n % 2 else ",b" for n in range(40)])
    with pytest.raises(
        DataError, match="'y' all complete rows hold 'a'; 20 of 40 rows left out: 20 without a value of 'x'"
    ):
        read(path, "target=y")


def test_a_column_that_is_nearly_empty(tmp_path: Path) -> None:
    """One row is left to train on, none to test on: the error names the column that lacks the others."""
    path = write(tmp_path / "t.csv", "x,few,y", [f"{n},{'' if n else 1.5},{n / 7}" for n in range(40)])
    with pytest.raises(DataError, match="39 of 40 rows left out: 39 without a value of 'few'"):
        read(path, "target=y")


@pytest.mark.parametrize("code", ["-200", "-99", "999", "9999"])
def test_numbers_that_may_stand_for_missing_ones(tmp_path: Path, code: str) -> None:
    """Far from all others, and often; what comes up once, or near others, is a number."""
    rows = [f"{code if n % 9 == 0 else n},{-300 + 10 * n},{n / 7}" for n in range(40)]
    data = read(write(tmp_path / "t.csv", "x,z,y", rows), "target=y")
    says = f"csv: column 'x' holds {code} 5 times: if that stands for a missing value, say missing={code}"
    assert [told for told in data.left_out if "stands for" in told] == [says]


def test_names_of_rows_before_one_column(tmp_path: Path) -> None:
    """As R writes it, with its names of rows in quotes or without."""
    for row in ('"car {}",{}', '"{}",{}'):
        rows = [row.format(n + 1, n % 10 + 0.5) for n in range(40)]
        data = read(write(tmp_path / "t.csv", '"y"', rows), "target=y,window=2,horizon=1")
        assert data.train.y[:3].tolist() == [2.5, 3.5, 4.5]


def test_words_become_columns_of_the_training_rows(tmp_path: Path) -> None:
    """Three colours, of which green comes up in the last rows only, where it is tested on: in training there are two columns
    beside the number, and green, like an empty cell, is 0 in both. Numbers are words if asked for."""
    colours = ["red" if n % 2 else "blue" for n in range(32)] + ["green"] * 4 + [""] * 4
    path = write(
        tmp_path / "t.csv", "t,size,colour,y", [f"{n},{n % 4},{colour},{n / 7}" for n, colour in enumerate(colours)]
    )
    data = read(path, "target=y,time=t")
    assert data.train.x.shape[1] == 3
    assert data.train.x[:4, 1:].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert data.test.x[:, 1:].sum() == 0
    assert read(path, "target=y,time=t,features=colour").train.x.shape[1] == 2
    assert read(path, "target=y,time=t,categories=size").train.x.shape[1] == 4 + 2
    assert read(path, "target=y,time=t,features=size,categories=colour,window=2").train.x.shape[1:] == (2, 3)


def test_seven_and_seven_point_zero(tmp_path: Path) -> None:
    """They are one class, one word and one group."""
    rows = [f"{n},{('7', '7.0', 'a', 'b')[n % 4]},{('7', '7.00', '8')[n % 3]}" for n in range(48)]
    path = write(tmp_path / "t.csv", "x,w,g", rows)
    assert read(path, "target=w,features=x").class_names == ("7", "a", "b")
    assert read(path, "target=g,features=x").class_names == ("7", "8")
    assert read(path, "target=x,features=w").train.x.shape[1] == 3
    data = read(path, "target=x,features=x,horizon=1,group=g", "natural")
    assert data.groups is not None
    assert data.groups.unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([n % 25 for n in range(600) if n % 25 != 9], 24),
        ([1 + n % 47 for n in range(940)], 47),
        ([n % 47 for n in range(47 * 9)], 0),  # nine of each
        ([18 + n % 60 for n in range(1200)], 0),  # ages
        ([2 * (n % 40) for n in range(1200)], 0),
        ([min(50, int(abs(9 * np.tan(n)))) for n in range(1200)], 0),  # counts, the larger the rarer
    ],
)
def test_labels_and_other_whole_numbers(tmp_path: Path, values: list[int], classes: int) -> None:
    """Labels begin at 0 or 1, leave few numbers out, and come up about equally often. What was taken for what is told, and
    how to change it."""
    path = write(tmp_path / "t.csv", "x,y", [f"{n},{value}" for n, value in enumerate(values)])
    data = read(path, "target=y")
    assert data.classes == classes
    told = f"classification, {classes} classes, for it has whole" if classes else "regression; task=classification"
    assert data.left_out[0].startswith(f"csv: target y: {told}")
    assert read(path, "target=y,task=regression").left_out == ("csv: target y: regression",)


def test_other_encodings(tmp_path: Path) -> None:
    """Latin-1 is read, and told of; a workbook and a picture are no tables."""
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.replace("yes", "größer").encode("latin-1"))
    data = read(path, "target=y")
    assert data.class_names == ("größer", "no")
    assert "csv: t.csv: read as Windows-1252, for it is not UTF-8" in data.left_out
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    path.write_bytes(packed.getvalue())
    with pytest.raises(DataError, match="it is an Excel workbook: save it as csv"):
        read(path, "target=y")
    path.write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="it is no text"):
        read(path, "target=y")
