"""Text as Excel, Windows and strangers save it. Oracle: the text that was encoded, or one sentence."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fl.common.client_table import read_lines
from fl.common.errors import ConfigError
from fl.common.text_file import read_text

_ROWS = "client,first_round,last_round\n0,0,9\n"


def _zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", data)
    return file.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_table_of_clients_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    """With and without a byte order mark; Latin-1 is told by what is no UTF-8."""
    (tmp_path / "t.csv").write_bytes((_ROWS + "caf\u00e9,1,2\n").encode(encoding))
    lines = [cells for _, cells in read_lines("--sampling", tmp_path / "t.csv")]
    assert lines == [["client", "first_round", "last_round"], ["0", "0", "9"], ["caf\u00e9", "1", "2"]]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"0,0,9\0\n", "it is no text"), (b"0,0," + b"9" * 200_000, "field larger than field limit")],
)
def test_what_is_no_table_is_one_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    """It names the option and the file."""
    path = tmp_path / "t.csv"
    path.write_bytes(_ROWS.encode() + content)
    with pytest.raises(ConfigError, match=rf"^--sampling .*t\.csv: not a readable csv file \({says}"):
        read_lines("--sampling", path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, _zipped])
def test_a_bomb_is_not_unpacked(
    tmp_path: Path, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 kB of zeros in some hundred bytes, where 100 kB would be harmless; and as many that shrink little."""
    monkeypatch.setattr("fl.common.text_file._ALWAYS", 100_000)
    path = tmp_path / "t.csv"
    path.write_bytes(pack(bytes(200_000)))
    with pytest.raises(ValueError, match=r"unpack to .* or more: unpack it, if it is meant to be so large"):
        read_text(path)
    text = "".join(f"{number * 7919 % 1000003:06d}," for number in range(30_000))
    path.write_bytes(pack(text.encode()))
    assert read_text(path) == (text, "")


def test_cells_of_several_lines_are_told_in_one(tmp_path: Path) -> None:
    """A quote may join lines; what the message shows of them is one."""
    (tmp_path / "t.csv").write_text('client,a\n0,"x\ny"\n')
    assert read_lines("--profiles", tmp_path / "t.csv")[1][1] == ["0", "x\\ny"]
