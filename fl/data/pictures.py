"""Picture files as one array: decoded on several threads, with a progress bar where that takes long."""

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fl.common.errors import DataError
from fl.common.files import need_file

_MODES = {1: "L", 3: "RGB"}
_GREY = ("1", "L", "LA")
_NO_PIXELS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""What Pillow recognises but cannot decode, or only with another program's help."""
_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What sets a picture of this EXIF orientation upright, as Pillow names it."""
_BAR_AFTER_S = 3.0
_MOST_PIXELS = 64_000_000
_ALONE_PIXELS = 4_000_000
"""Pictures of more than so many pixels are decoded one at a time, on one thread: memory does not grow with the cores."""

_bars: ContextVar[bool] = ContextVar("bars", default=True)


@contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """Whether loading in this block may show progress bars."""
    token = _bars.set(shown)
    try:
        yield
    finally:
        _bars.reset(token)


@functools.cache
def endings() -> frozenset[str]:
    """The endings, in lower case and with their point, of the pictures that Pillow reads."""
    from PIL import Image

    formats = _formats()
    return frozenset(ending for ending, form in Image.registered_extensions().items() if form in formats)


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.preinit()  # the usual ones come first
    Image.init()
    return tuple(form for form in Image.ID if form not in _NO_PIXELS)


def decode(
    paths: Sequence[Path],
    *,
    size: int,
    channels: int,
    fit: bool,
    background: str = "white",
    blank: list[Path] | None = None,
) -> Tensor:
    """The pictures as uint8 [N, channels, size, size], in that order; `channels` is 1 (grey) or 3 (RGB).

    With `fit` pictures of any shape are turned upright, as their camera noted, scaled until the shorter side has `size`
    pixels, and cut to the middle square; without, they must have that size. Of animations the first frame is taken, what
    is transparent shows the colour `background`, and pictures with transparency that are of a single colour then are
    added to `blank`. DataError that names a file that cannot be read, has another size, too many pixels, or more than
    8 bits a channel.
    """
    pixels = np.empty((len(paths), channels, size, size), dtype=np.uint8)

    def read(number: int, alone: bool) -> bool:
        found = _decode_one(paths[number], size, channels, fit, background, alone)
        if found is None:
            return False
        pixels[number], is_blank = found
        if is_blank and blank is not None:
            blank.append(paths[number])
        return True

    _for_each(read, len(paths))
    return torch.from_numpy(pixels)


def count_channels(paths: Sequence[Path]) -> int:
    """1 if all these pictures are grey, else 3; only their headers are read. DataError that names a file without one."""
    grey = [False] * len(paths)

    def read(number: int, alone: bool) -> bool:
        with _opened(paths[number]) as image:
            grey[number] = image.mode in _GREY
        return True

    _for_each(read, len(paths))
    return 1 if all(grey) else 3


def _decode_one(
    path: Path, size: int, channels: int, fit: bool, background: str, alone: bool
) -> tuple[np.ndarray, bool] | None:
    """Its pixels, uint8 [channels, size, size], and whether its transparency left it a single colour; None for a large one
    that is not read `alone`."""
    from PIL import Image, ImageOps

    with _opened(path) as image:
        if image.width * image.height > _ALONE_PIXELS and not alone:
            return None
        if image.mode[0] in "IF":  # 16 or 32 bits, in several forms
            raise DataError(f"{path} has more than 8 bits a channel; save it as an 8-bit picture")
        if not fit and image.size != (size, size):
            raise DataError(f"{path} must have {size}x{size} pixels, not {image.size[0]}x{image.size[1]}")
        image, is_blank = _opaque(_upright(image) if fit else image, background)
        image = image.convert(_MODES[channels])
        if fit:
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1), is_blank


def _opaque(image: Any, background: str) -> tuple[Any, bool]:
    """The Pillow image on this colour, and whether that is all there is to see; the same image if nothing shows through."""
    from PIL import Image

    if not image.has_transparency_data:
        return image, False
    clear = image if image.mode == "RGBA" else image.convert("RGBA")
    if clear.getchannel("A").getextrema()[0] == 255:
        return image, False
    solid = Image.alpha_composite(Image.new("RGBA", clear.size, background), clear).convert("RGB")
    return solid, solid.getcolors(1) is not None


def _upright(image: Any) -> Any:
    """The Pillow image as its camera noted it. Nothing else of its EXIF data is looked at: it may be damaged."""
    from PIL import Image

    image.load()  # a TIFF picture is turned here already, and its note is gone then
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception as error:  # what their parser raises depends on the damage
        raise ValueError(f"damaged EXIF data, {type(error).__name__}") from None
    return image.transpose(getattr(Image.Transpose, turn)) if turn else image


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The picture, not decoded yet; whatever goes wrong in the block, the error names the file."""
    from PIL import Image

    try:
        need_file(path)
        with Image.open(path, formats=_formats()) as image:
            yield image
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{path} has more than {_MOST_PIXELS // 10**6} million pixels: make it smaller first") from None
    except Exception as error:  # what Pillow's many readers raise depends on the damage
        lines = str(error).strip().splitlines()
        reason = "no such file" if isinstance(error, FileNotFoundError) else lines[0] if lines else type(error).__name__
        raise DataError(f"{path} cannot be read as a picture ({reason})") from None


def _for_each(task: Callable[[int, bool], bool], count: int) -> None:
    """`task(number, False)` for 0 ... count-1 on a thread per core, since Pillow decodes outside of Python's lock; then
    `task(number, True)`, one after another, for those that returned False."""
    from PIL import Image

    hidden = None if _bars.get() else True  # to tqdm None means: hidden unless on a terminal
    _formats()  # imports Pillow's readers, once and before there are threads
    with (
        warnings.catch_warnings(),
        ThreadPoolExecutor(os.cpu_count() or 1) as pool,
        tqdm(total=count, unit="picture", desc="reading", disable=hidden, delay=_BAR_AFTER_S, leave=False) as bar,
    ):
        warnings.simplefilter("ignore")  # of odd notes in a picture that can be read all the same
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MOST_PIXELS
        try:
            done = []
            for each in pool.map(task, range(count), [False] * count):
                done.append(each)
                bar.update(each)
            for number in [number for number, each in enumerate(done) if not each]:
                bar.update(task(number, True))
        finally:
            Image.MAX_IMAGE_PIXELS = usual
