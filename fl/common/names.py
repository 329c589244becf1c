"""Names that others chose, of files, folders and classes, as every file, figure and terminal can show them."""

import re

# Control characters, ends of lines, marks that turn the direction of writing, and halves of surrogate pairs: Python's
# stand-ins for the bytes of a file's name that are no UTF-8.
_UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(name: str) -> str:
    """`name` in one line, and in UTF-8: what is neither becomes an escape, `\\n` or `\\xe9`, say."""
    return _UNREADABLE.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
