"""Pictures from files. Oracles: pixels written without loss and read back; shapes and shades by hand."""

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fl.common.errors import DataError
from fl.data import pictures
from fl.data.pictures import count_channels, decode, progress_bars


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """A picture of these uint8 pixels, [H, W] grey or [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def shades(*shape: int, seed: int = 0) -> np.ndarray:
    """Random pixels."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_order_and_channels(tmp_path: Path) -> None:
    """Oracle: the pixels written, in the order asked for; grey becomes three equal channels, colour the usual luma."""
    colour, grey = shades(8, 8, 3), shades(8, 8, seed=1)
    paths = [save(tmp_path / "b.png", colour), save(tmp_path / "a.png", grey)]
    both = decode(paths, size=8, channels=3, fit=False)
    assert both.dtype == torch.uint8
    assert torch.equal(both[0], torch.from_numpy(colour).permute(2, 0, 1))
    assert torch.equal(both[1], torch.from_numpy(grey).expand(3, 8, 8))
    luma = decode(paths, size=8, channels=1, fit=False)
    assert torch.equal(luma[1, 0], torch.from_numpy(grey))
    exact = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma[0, 0].numpy() - exact).max() <= 1
    assert [count_channels(part) for part in (paths, paths[:1], paths[1:])] == [3, 3, 1]


@pytest.mark.parametrize(("height", "width"), [(10, 30), (30, 10)])
def test_the_middle_square(tmp_path: Path, height: int, width: int) -> None:
    """Oracle: of a picture three times as long as wide, in three colours, only the middle one is left."""
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = (10, 200, 30)
    path = save(tmp_path / "long.png", pixels if height == 10 else pixels.transpose(1, 0, 2).copy())
    assert Image.open(path).size == (width, height)
    square = decode([path], size=10, channels=3, fit=True)[0]
    assert square.flatten(1).unique(dim=1).tolist() == [[10], [200], [30]]
    assert decode([path], size=5, channels=3, fit=True).shape == (1, 3, 5, 5)


def test_shrinking_averages(tmp_path: Path) -> None:
    """Oracle: a chessboard of black and white pixels is grey from afar, not black or white."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    small = decode([save(tmp_path / "board.png", board.astype(np.uint8))], size=8, channels=1, fit=True)
    assert int(small.min()) > 120
    assert int(small.max()) < 135


def test_turned_as_the_camera_noted(tmp_path: Path) -> None:
    """Oracle: orientation 3 is upside down, so a dark top becomes a dark bottom."""
    pixels = np.full((8, 8), 255, np.uint8)
    pixels[:4] = 0
    exif = Image.Exif()
    exif[0x0112] = 3
    path = save(tmp_path / "photo.png", pixels, exif=exif)
    assert decode([path], size=8, channels=1, fit=True)[0, 0, :, 0].tolist() == [255] * 4 + [0] * 4


@pytest.mark.parametrize("turn", range(1, 9))
def test_all_orientations_by_their_definition(tmp_path: Path, turn: int) -> None:
    """EXIF's table: which side of the scene the first row and the first column of the file show."""
    scene = shades(8, 8)
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.T,
        6: np.rot90(scene),
        7: scene[::-1, ::-1].T,
        8: np.rot90(scene, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    path = save(tmp_path / "photo.png", np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(decode([path], size=8, channels=1, fit=True)[0, 0].numpy(), scene)


def _photo(path: Path) -> Path:
    """A JPEG to turn by a quarter, with one more note whose kind of value is damaged: text where there must be fractions."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    content = bytearray(save(path, shades(8, 8, 3), exif=exif).read_bytes())
    order = "<" if b"II*\0" in content else ">"
    at = content.index(struct.pack(order + "HH", 0x010E, 2))
    content[at : at + 2] = struct.pack(order + "H", 0x011A)
    path.write_bytes(content)
    return path


def test_damaged_notes_of_the_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage to a note that is not needed does not matter. Where the orientation cannot be told, whatever Pillow's parser
    makes of it, the file is named."""
    path = _photo(tmp_path / "photo.jpg")
    assert decode([path], size=8, channels=3, fit=True).shape == (1, 3, 8, 8)

    def broken(image: Image.Image) -> Image.Exif:
        raise struct.error("unpack requires a buffer of 2 bytes")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    with pytest.raises(DataError, match=r"^.*photo\.jpg cannot be read as a picture \(damaged EXIF data, error\)$"):
        decode([path], size=8, channels=3, fit=True)


def test_other_kinds_of_pictures(tmp_path: Path) -> None:
    """Oracle: the one colour of a palette picture, of a CMYK JPEG (within its loss), and of one with an opaque alpha."""
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    red.convert("P").save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    Image.new("RGBA", (8, 8), (255, 0, 0, 255)).save(tmp_path / "clear.png")
    read = decode([tmp_path / name for name in ("palette.png", "cmyk.jpg", "clear.png")], size=8, channels=3, fit=True)
    assert (read.int() - torch.tensor([255, 0, 0]).view(3, 1, 1)).abs().max() <= 6


def _broken_png() -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"no zlib stream") + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "broken", "missing", "deep", "size", "folder"])
def test_what_cannot_be_used(tmp_path: Path, kind: str) -> None:
    """Oracle: one sentence that names the file, among good ones, and no chained traceback."""
    good = [save(tmp_path / f"{number}.png", shades(8, 8, 3, seed=number)) for number in range(20)]
    bad = tmp_path / f"{kind}.jpg"
    if kind == "folder":
        bad.mkdir()
    elif kind == "cut":
        bad.write_bytes(save(tmp_path / "whole.jpg", shades(64, 64, 3)).read_bytes()[:700])
    elif kind == "deep":
        Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(bad, format="png")
    elif kind == "size":
        save(bad, shades(8, 9, 3))
    elif kind != "missing":
        bad.write_bytes({"empty": b"", "text": b"no picture", "broken": _broken_png()}[kind])
    says = {"missing": "no such file", "deep": "more than 8 bits", "size": "must have 8x8 pixels, not 9x8"}
    with pytest.raises(DataError) as caught:
        decode([*good[:10], bad, *good[10:]], size=8, channels=3, fit=kind != "size")
    message = str(caught.value)
    assert message.startswith(str(bad))
    assert says.get(kind, "cannot be read as a picture") in message
    assert "\n" not in message
    assert caught.value.__cause__ is None


def test_bars_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what the bar is told; None leaves it to whether there is a terminal. The wish ends with its block."""
    told = []

    class Bar(pictures.tqdm):  # type: ignore[misc, name-defined]
        def __init__(self, **options: object) -> None:
            told.append(options["disable"])
            super().__init__(**{**options, "disable": True})

    monkeypatch.setattr(pictures, "tqdm", Bar)
    path = save(tmp_path / "a.png", shades(8, 8))
    for shown in (True, False):
        with progress_bars(shown):
            count_channels([path])
    count_channels([path])
    assert told == [None, True, None]


def test_transparency_shows_the_background(tmp_path: Path) -> None:
    """Oracle: alpha compositing by hand, of red that is half there; for every kind of transparency that Pillow knows."""
    half, none = Image.new("RGBA", (8, 8), (255, 0, 0, 128)), Image.new("L", (8, 8), 7)
    half.save(tmp_path / "half.png")
    none.save(tmp_path / "key.png", transparency=7)
    none.convert("P").save(tmp_path / "palette.gif", transparency=7)
    Image.new("LA", (8, 8), (0, 0)).save(tmp_path / "grey.png")
    paths = [tmp_path / name for name in ("half.png", "key.png", "palette.gif", "grey.png")]
    for background, half_there, ground in (("white", (255, 127, 127), 255), ("black", (128, 0, 0), 0)):
        read = decode(paths, size=8, channels=3, fit=True, background=background)
        assert read[0, :, 4, 4].tolist() == list(half_there)
        assert read[1:].unique().tolist() == [ground]


def test_opaque_pictures_keep_their_bits(tmp_path: Path) -> None:
    """Alpha that hides nothing changes nothing. Oracle: the same colours without alpha."""
    colours = Image.fromarray(shades(8, 8, 3))
    colours.save(tmp_path / "a.png")
    colours.convert("RGBA").save(tmp_path / "b.png")
    for channels in (1, 3):
        a, b = decode([tmp_path / "a.png", tmp_path / "b.png"], size=5, channels=channels, fit=True)
        assert torch.equal(a, b)


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_the_first_frame_of_an_animation(tmp_path: Path, ending: str) -> None:
    """Oracle: of a white and a black frame, the white one."""
    white, black = (Image.new("L", (8, 8), shade) for shade in (255, 0))
    path = tmp_path / f"film.{ending}"
    white.save(path, save_all=True, append_images=[black])
    assert int(decode([path], size=8, channels=1, fit=True).min()) == 255


def test_a_tiff_is_turned_once(tmp_path: Path) -> None:
    """Pillow turns TIFF pictures itself. Oracle: the scene, of which the file has a quarter turn."""
    scene = shades(8, 8)
    path = tmp_path / "scan.tif"
    Image.fromarray(np.ascontiguousarray(np.rot90(scene))).save(path, tiffinfo={0x0112: 6})
    assert np.array_equal(decode([path], size=8, channels=1, fit=True)[0, 0].numpy(), scene)


def test_a_picture_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More pixels than are decoded, and more than twice as many: refused in one sentence, and Pillow's own limit stays."""
    monkeypatch.setattr(pictures, "_MOST_PIXELS", 40)
    usual = Image.MAX_IMAGE_PIXELS
    for side in (8, 80):
        path = save(tmp_path / "bomb.png", shades(side, side))
        with pytest.raises(DataError, match=r"bomb\.png has more than 0 million pixels: make it smaller first"):
            decode([path], size=8, channels=1, fit=True)
    assert usual == Image.MAX_IMAGE_PIXELS


def test_large_pictures_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four threads each with a picture beyond the limit. Oracle: how many are inside the decoder at once; the pixels."""
    inside, most = [], []
    original = pictures._upright

    def watched(image: Image.Image) -> Image.Image:
        inside.append(image)
        time.sleep(0.02)
        most.append(len(inside))
        inside.pop()
        return original(image)

    monkeypatch.setattr(pictures.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(pictures, "_ALONE_PIXELS", 40)
    monkeypatch.setattr(pictures, "_upright", watched)
    pixels = [shades(8, 8, seed=seed) for seed in range(4)]
    paths = [save(tmp_path / f"{number}.png", each) for number, each in enumerate(pixels)]
    assert np.array_equal(decode(paths, size=8, channels=1, fit=True)[:, 0].numpy(), np.stack(pixels))
    assert most == [1, 1, 1, 1]


def test_another_program_is_never_asked(tmp_path: Path) -> None:
    """PostScript, which Pillow hands to ghostscript, under the name of a picture. Oracle: refused like any other file."""
    path = tmp_path / "scene.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(DataError, match="cannot be read as a picture"):
        decode([path], size=8, channels=1, fit=True)
