"""The entropy stage. Oracles: the zstd library called directly, layouts written out by hand, and for damaged bytes the
rule that they are exactly `size` bytes or a PayloadError."""

import random

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import PayloadError
from compression.entropy import compress, decompress, pack_symbols, symbol_bytes, unpack_symbols
from tests.compression.cases import EXAMPLES


def tensor(data: bytes) -> Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


def skewed(size: int) -> bytes:
    """Bytes that compress: mostly zeros and ones."""
    return np.random.default_rng(size).geometric(0.6, size).astype(np.uint8).tobytes()


@EXAMPLES
@given(st.binary(max_size=300))
def test_back_again(data: bytes) -> None:
    """Decompressing gives the bytes; the frame is one that any zstd decoder reads."""
    frame = compress(tensor(data))
    assert decompress(frame, len(data)).numpy().tobytes() == data
    assert zstandard.ZstdDecompressor().decompress(frame.numpy().tobytes(), max_output_size=len(data) + 1) == data


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 100_000])
def test_frames_are_small(size: int) -> None:
    """9 bytes for nothing; no content size, no checksum, an 8 KiB window; within 30 % of the symbols' entropy (Huffman: no
    symbol below one bit)."""
    data = skewed(size)
    frame = compress(tensor(data)).numpy().tobytes()
    header = zstandard.get_frame_parameters(frame)
    assert header.content_size == zstandard.CONTENTSIZE_UNKNOWN
    assert not header.has_checksum
    assert header.window_size <= 8192
    share = np.bincount(np.frombuffer(data, dtype=np.uint8)) / max(size, 1)
    entropy = size * -(share[share > 0] * np.log2(share[share > 0])).sum() / 8
    assert len(frame) <= 1.3 * entropy + 30
    assert size or len(frame) == 9
    assert decompress(tensor(frame), size).numpy().tobytes() == data


@pytest.mark.parametrize("size", [0, 2, 6, 30_000])
def test_parts_share_a_frame(size: int) -> None:
    """Noise and then skewed symbols: one frame still, and no larger than each compressed for itself."""
    noise, symbols = random.Random(size).randbytes(size // 2), skewed(size // 2)
    frame = compress(tensor(noise + symbols), parts=2)
    assert decompress(frame, size).numpy().tobytes() == noise + symbols
    assert frame.numel() <= compress(tensor(noise)).numel() + compress(tensor(symbols)).numel()


SAMPLE = skewed(20_000)


def refused_frames() -> dict[str, bytes]:
    """Each differs in one thing from a frame of SAMPLE that is fine."""
    good = compress(tensor(SAMPLE)).numpy().tobytes()
    large = zstandard.ZstdCompressionParameters.from_level(1, window_log=20, write_content_size=False)
    return {
        "nothing": b"",
        "half a header": good[:5],
        "cut": good[:-1],
        "trailing bytes": good + b"\0",
        "two frames": good + compress(tensor(b"")).numpy().tobytes(),
        "a skippable frame first": bytes.fromhex("502a4d18 00000000") + good,
        "content size": zstandard.ZstdCompressor(level=1).compress(SAMPLE),
        "checksum": zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(SAMPLE),
        "window": zstandard.ZstdCompressor(compression_params=large).compress(SAMPLE),
        "random bytes": random.Random(1).randbytes(50),
    }


@pytest.mark.parametrize("what", refused_frames())
def test_a_frame_of_another_form_is_refused(what: str) -> None:
    """Although any zstd decoder would read some of them."""
    with pytest.raises(PayloadError):
        decompress(tensor(refused_frames()[what]), len(SAMPLE))


@pytest.mark.parametrize("size", [0, 1, len(SAMPLE) - 1, len(SAMPLE) + 1, 10 * len(SAMPLE)])
def test_another_size_is_refused(size: int) -> None:
    """The frame is fine, but it does not hold what the header says."""
    with pytest.raises(PayloadError):
        decompress(compress(tensor(SAMPLE)), size)


def test_damaged_frames_are_whole_or_refused() -> None:
    """5000 frames with flipped bits, cut or overwritten: exactly the bytes asked for, or PayloadError."""
    rng = random.Random(3)
    frames = [(size, compress(tensor(skewed(size))).numpy().tobytes()) for size in (1, 30, 500, 9000)]
    whole = 0
    for _ in range(5000):
        size, frame = rng.choice(frames)
        data = bytearray(frame)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        try:
            whole += decompress(tensor(bytes(data)), size).numel() == size
        except PayloadError:
            continue
    assert 100 < whole < 4900


@pytest.mark.parametrize(
    ("width", "codes", "packed"),
    [
        (1, [1, 0, 1, 1, 0, 0, 0, 0, 1], [0b00001101, 1]),
        (2, [3, 0, 1, 2, 2], [0b10010011, 2]),
        (3, [7, 1, 5], [0x17, 0x05]),
        (4, [15, 2, 9], [0x2F, 0x09]),
        (5, [31, 0], [31, 0]),
        (8, [255, 7], [255, 7]),
        (16, [1, 2, 3, 4, 5, 6], [1, 3, 5, 2, 4, 6]),
        (32, [1, 2, 3, 4, 5, 6, 7, 8], [1, 5, 2, 6, 3, 7, 4, 8]),
    ],
)
def test_layouts(width: int, codes: list[int], packed: list[int]) -> None:
    """By hand from the docstring."""
    k = len(codes) * 8 // width if width > 8 else len(codes)
    found = pack_symbols(torch.tensor(codes, dtype=torch.uint8), width)
    assert found.tolist() == packed
    assert symbol_bytes(width, k) == len(packed)
    assert unpack_symbols(found, width, k).tolist() == codes


@EXAMPLES
@given(st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 16, 32]), st.sampled_from([0, 1, 2, 7, 8, 9, 255, 256, 257]))
def test_symbols_back_again(width: int, k: int) -> None:
    """Any codes; and one byte more or fewer is refused."""
    rng = np.random.default_rng(k)
    codes = torch.from_numpy(rng.integers(0, 1 << min(width, 8), k * max(width // 8, 1)).astype(np.uint8))
    packed = pack_symbols(codes, width)
    assert packed.numel() == symbol_bytes(width, k)
    assert torch.equal(unpack_symbols(packed, width, k), codes)
    for wrong in (torch.cat((packed, packed.new_zeros(1))), packed[:-1]):
        if wrong.numel() != packed.numel():
            with pytest.raises(PayloadError):
                unpack_symbols(wrong, width, k)


@pytest.mark.parametrize(
    ("width", "k", "data"), [(3, 2, [0x80]), (3, 1, [0x10]), (1, 3, [8]), (5, 1, [32]), (4, 3, [0, 16])]
)
def test_codes_too_wide_or_too_many_are_refused(width: int, k: int, data: list[int]) -> None:
    """A code of more than `width` bits; a code where the last byte is to be filled with zeros."""
    with pytest.raises(PayloadError):
        unpack_symbols(torch.tensor(data, dtype=torch.uint8), width, k)
