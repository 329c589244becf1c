"""The text of a table's file: unpacked, and decoded as its bytes say."""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from .files import read_bytes

# What reading an absent, truncated or foreign file can raise; anything else is a bug here.
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError)

CANNOT_READ = (*UNREADABLE, csv.Error, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What reading a file that is damaged, or no table, can raise."""

_MOST_TIMES, _ALWAYS = 100, 100_000_000  # tables shrink to a tenth or so; and bytes that are harmless whatever the file

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> tuple[str, str]:
    """The text of a file, packed (gzip, bzip2, xz, zip) or not, and a remark where its encoding is a guess, else "".

    One of CANNOT_READ where there is none.
    """
    data = read_bytes(path)
    for mark, unpacked in _PACKED.items():
        if data.startswith(mark):
            with unpacked(io.BytesIO(data)) as stream:
                data = _within_bounds(stream, len(data))
            break
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None) or _unmarked(data[:1000])
    text = data.decode(encoding or "utf-8", "replace")
    spoilt, remark = text.count("\ufffd"), ""
    if spoilt and not encoding and 2 * spoilt > sum(not character.isascii() for character in text):
        text, remark = data.decode("cp1252", "replace"), "read as Windows-1252, for it is not UTF-8"
    elif spoilt:
        remark = f"{spoilt} character(s) cannot be read"
    if "\0" in text:
        raise ValueError("it is no text")
    return text, remark


def _unmarked(head: bytes) -> str | None:
    """UTF-16 without a mark: of most characters one byte is 0."""
    low, high = head[::2].count(0), head[1::2].count(0)
    if max(low, high) * 4 <= len(head):
        return None
    return "utf-16-le" if high > low else "utf-16-be"


def refuse_bomb(packed: int, unpacked: int) -> None:
    """ValueError for so many packed bytes that become so many more: a file that was made to fill the memory."""
    if unpacked > max(_ALWAYS, _MOST_TIMES * packed):
        raise ValueError(f"{packed} bytes unpack to {unpacked} or more: unpack it, if it is meant to be so large")


def _within_bounds(stream: IO[bytes], packed: int) -> bytes:
    """All that the stream unpacks to; ValueError as `refuse_bomb`, as soon as it is too much."""
    parts: list[bytes] = []
    size = 0
    while part := stream.read(1 << 20):
        parts.append(part)
        size += len(part)
        refuse_bomb(packed, size)
    return b"".join(parts)


def _only_member(file: IO[bytes]) -> IO[bytes]:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if "[Content_Types].xml" in names:
        raise ValueError("it is an Excel workbook: save it as csv")
    if len(names) != 1:
        raise ValueError(f"it is an archive of {len(names)} files: unpack it")
    return archive.open(names[0])


_PACKED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"PK\3\4": _only_member,
}
