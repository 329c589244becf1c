"""Reading csv files. Oracles: files written by hand, the words of the messages."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from fl.common.errors import DataError
from fl.data.tables import find_tables, is_missing, is_no_word, read_table, refuse_huge, to_numbers


@pytest.mark.parametrize("packed", [False, True])
def test_by_hand(tmp_path: Path, packed: bool) -> None:
    """A byte order mark, spaces, quotes with a comma, Windows line ends and an empty line change nothing; a row of one cell
    and a row of four are malformed, and empty; a byte that is no UTF-8 stays in its cell."""
    text = b'\xef\xbb\xbfa, b ,"c"\r\n1, 2 ,"x, y"\r\n\r\n3\r\n4,5,6,7\r\n8,9,\xff\r\n'
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(text) if packed else text)
    table = read_table(path, "--dataset t")
    assert table.columns == {"a": ["1", "", "", "8"], "b": ["2", "", "", "9"], "c": ["x, y", "", "", "\ufffd"]}
    assert table.malformed.tolist() == [False, True, True, False]
    assert read_table(path, "--dataset t", ["c", "a"]).columns == {
        "c": ["x, y", "", "", "\ufffd"],
        "a": ["1", "", "", "8"],
    }


def test_numbers_and_missing_values() -> None:
    """Oracle: the list of words for nothing; infinity and Python's underscores are no measurements."""
    cells = ["1", "-2.5e3", "", "NA", "nan", "inf", "1_000", "warm", "?"]
    assert np.array_equal(to_numbers(cells), [1, -2500, *[np.nan] * 7], equal_nan=True)
    assert [cell for cell in cells if is_missing(cell)] == ["", "NA", "nan", "?"]
    assert [cell for cell in ["", "NA", "NaN", "none", "null", "?", "Na", "unknown"] if is_no_word(cell)] == [
        "",
        "NA",
        "NaN",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it has no header"),
        (b"a,b,a\n1,2,3\n", "its header names the column 'a' twice"),
        (b"a,c\n1,2\n", "it has no column 'b', only a, c"),
        (b"a\0b\n1,2\n", "it is no text"),
        (b'a,b\n1,"' + b"x" * 200_000 + b'"\n', "field larger than field limit"),
    ],
)
def test_refusals(tmp_path: Path, content: bytes, says: str) -> None:
    """Oracle: the words of the message, and that it begins with the option."""
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"^--dataset t: .*t\.csv cannot be read \(.*{says}"):
        read_table(tmp_path / "t.csv", "--dataset t", ["a", "b"])


def test_damaged_archives(tmp_path: Path) -> None:
    """A cut-off archive, one with a damaged byte, and a missing file are refused, not read in part."""
    rows = "".join(f"{n},{n * n}\n" for n in range(1000))
    whole = gzip.compress(("a,b\n" + rows).encode())
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(damaged)):
        (tmp_path / "t.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            read_table(tmp_path / "t.csv.gz", "--dataset t")
    with pytest.raises(DataError, match="No such file"):
        read_table(tmp_path / "other.csv", "--dataset t")


def test_finding(tmp_path: Path) -> None:
    """The first folder that has any; packed and unpacked, by name; but not both of one file."""
    for name in ("second/x-2.csv.gz", "second/x-1.csv", "second/y.csv", "x-3.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def names(folders: list[str], pattern: str) -> list[str]:
        return [path.name for path in find_tables(tmp_path, folders, pattern, "--dataset t")]

    assert names(["first", "second"], "x-*") == ["x-1.csv", "x-2.csv.gz"]
    assert names(["first"], "x-*") == ["x-3.csv"]
    assert names(["first"], "z-*") == []
    (tmp_path / "second" / "x-2.csv").touch()
    with pytest.raises(DataError, match=r"^--dataset t: x-2\.csv and x-2\.csv\.gz in .*second are one file twice"):
        names(["first", "second"], "x-*")


def test_endings_in_capitals(tmp_path: Path) -> None:
    """X.CSV and Y.Csv.GZ are found and read like others."""
    (tmp_path / "X.CSV").write_text("a\n1\n")
    (tmp_path / "Y.Csv.GZ").write_bytes(gzip.compress(b"a\n2\n"))
    found = find_tables(tmp_path, (), "*", "--dataset t")
    assert [read_table(path, "--dataset t").columns for path in found] == [{"a": ["1"]}, {"a": ["2"]}]


def test_a_mark_before_a_quoted_header(tmp_path: Path) -> None:
    """A byte order mark is no part of the first name, quoted or not."""
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbf"y","b"\r\n1,2\r\n')
    assert read_table(tmp_path / "t.csv", "--dataset t").columns == {"y": ["1"], "b": ["2"]}


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ({20: '"0.5,20'}, 22),
        ({20: '20,"0.5'}, 22),
        ({20: '20,"0.5', 700: '7,"0.5'}, 22),
        ({20: '"0.5,20', 700: '"0.5,7'}, 22),
        ({0: 'a "a,b'}, 0),
    ],
)
def test_a_stray_quote_swallows_no_rows(tmp_path: Path, bad: dict[int, str], line: int) -> None:
    """A thousand rows, below the header in line 1. Whether the quote is closed by another far below or by nothing, and
    however many cells that makes, the line is named; a quote in the middle of a cell is a character like others."""
    rows = [bad.get(n, f"{n},{n}") for n in range(1000)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b", *rows]) + "\n")
    if line:
        with pytest.raises(
            DataError, match=rf"^--dataset t: .*t\.csv cannot be read \(a quote in line {line} is not closed"
        ):
            read_table(tmp_path / "t.csv", "--dataset t")
    else:
        assert len(read_table(tmp_path / "t.csv", "--dataset t")) == 1000


def test_a_quote_in_the_header_or_a_huge_cell(tmp_path: Path) -> None:
    """A header that swallows the rows is refused, and so is a cell beyond the reader's limit, by its first line."""
    (tmp_path / "t.csv").write_text('"a,b\n1,2\n3,4\n')
    with pytest.raises(DataError, match="a quote in line 1 is not closed"):
        read_table(tmp_path / "t.csv", "--dataset t")
    (tmp_path / "t.csv").write_text("a,b\n1,2\n" + '"3,4\n' + "5,6\n" * 50_000)
    with pytest.raises(DataError, match="a quote in line 3 is not closed"):
        read_table(tmp_path / "t.csv", "--dataset t")


def test_cells_of_several_lines(tmp_path: Path) -> None:
    """Quoted text with line ends and doubled quotes is one cell of one row."""
    (tmp_path / "t.csv").write_bytes(b'a,b\r\n1,"one\r\n""two""\r\n"\r\n2,three\r\n')
    table = read_table(tmp_path / "t.csv", "--dataset t")
    assert table.columns == {"a": ["1", "2"], "b": ['one\r\n"two"', "three"]}
    assert not table.malformed.any()


def test_rows_of_separators(tmp_path: Path) -> None:
    """At the end of a file they are none; in between one is a row, which lacks all values and so parts its neighbours."""
    (tmp_path / "t.csv").write_text("a,b\n1,2\n,\n3,4\n,\n,\n")
    table = read_table(tmp_path / "t.csv", "--dataset t")
    assert table.columns == {"a": ["1", "", "3"], "b": ["2", "", "4"]}
    assert table.lines.tolist() == [2, 3, 4]


def test_hidden_files_are_no_tables(tmp_path: Path) -> None:
    """What other systems leave beside a file, `._x.csv`, is not read."""
    (tmp_path / "._x.csv").write_bytes(b"\0")
    (tmp_path / "x.csv").touch()
    assert [path.name for path in find_tables(tmp_path, (), "*", "--dataset t")] == ["x.csv"]


def test_huge_numbers() -> None:
    """The largest number of fp32 is about 3.4e38; what is missing is no number."""
    refuse_huge(np.array([3e38, -3e38, np.nan]), "a", "t.csv", "--dataset t")
    refuse_huge(np.array([]), "a", "t.csv", "--dataset t")
    with pytest.raises(DataError, match=r"^--dataset t: column 'a' of t\.csv holds a number of size 1e\+200"):
        refuse_huge(np.array([1.0, np.nan, -1e200]), "a", "t.csv", "--dataset t")
