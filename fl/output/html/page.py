"""What a page is made of, and how it becomes one file."""

import base64
import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from fl.common.files import write_bytes

from .template import PAGE, SCRIPT, STYLE

_PIXELS = 1500  # as many as a wide screen shows; the files beside the page have more
_COLOURS = 128
MOST_ROWS = 1000


@dataclass(frozen=True)
class Cell:
    """A cell: what is read, and `value`, by which its column is sorted: a number, or words; "" comes last."""

    text: str
    value: float | str

    @property
    def data(self) -> str:
        """`value` as the page's script reads it: JavaScript has another name than Python for what is infinite."""
        return self.value if isinstance(self.value, str) else str(self.value).replace("inf", "Infinity")

    @classmethod
    def of(cls, value: Any) -> "Cell":
        """A cell of a number, a text or None, numbers short but sorted by all their digits."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return cls("", "")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return cls(str(value), str(value))
        if isinstance(value, int) or value.is_integer():
            return cls(f"{int(value):,}" if abs(value) < 1e15 else f"{value:.4g}", float(value))
        return cls(f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}", float(value))


@dataclass(frozen=True)
class SortableTable:
    """Rows of cells below a header; a click on a name sorts by it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    @classmethod
    def of(cls, title: str, columns: Mapping[str, Sequence[Any]], note: str = "") -> "SortableTable":
        """A table of columns by name. Of a long one every second, third, ... row and the last: the page stays small."""
        length = len(next(iter(columns.values()), ()))
        step = max(1, -(-length // MOST_ROWS))
        at = sorted({*range(0, length, step), *([length - 1] if length else [])})
        if step > 1:
            note = f"{note} Every {step} rows of {length:,}; all of them are in the file beside this page.".strip()
        return cls(title, list(columns), [[Cell.of(column[i]) for column in columns.values()] for i in at], note)

    @functools.cached_property
    def numeric(self) -> Sequence[bool]:
        """Whether each column holds numbers alone."""
        return [
            all(not isinstance(row[column].value, str) or row[column].value == "" for row in self.rows)
            for column in range(len(self.header))
        ]


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its PNG file as text."""

    caption: str
    base64: str
    wide: bool = False

    @classmethod
    def of(cls, png: Path | BinaryIO, caption: str, *, wide: bool = False) -> "Picture":
        """A PNG file made small enough for a page: at most 1,500 pixels wide, 128 colours."""
        from PIL import Image

        with Image.open(png) as image:
            small = image.convert("RGB").reduce(max(1, -(-image.width // _PIXELS)))
        file = io.BytesIO()
        small.quantize(_COLOURS, dither=Image.Dither.NONE).save(file, "png", optimize=True)
        return cls(caption, base64.b64encode(file.getvalue()).decode(), wide)


@dataclass(frozen=True)
class Page:
    """A page: `cards` are (caption, value, small print), `notes` paragraphs."""

    title: str
    subtitle: str = ""
    cards: Sequence[tuple[str, str, str]] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[SortableTable] = field(default_factory=list)

    def html(self) -> str:
        """The page as text. Every name and value is escaped: a run called `<b>` is one."""
        from jinja2 import Environment
        from markupsafe import Markup

        template = Environment(autoescape=True, trim_blocks=False).from_string(PAGE)
        return template.render(page=self, style=Markup(STYLE), script=Markup(SCRIPT))

    def write(self, path: Path) -> Path:
        """Write the page to `path`, and return it."""
        write_bytes(path, self.html().encode("utf-8", "backslashreplace"))  # a path may hold what is no UTF-8
        return path
