"""Position formats. Oracles: each format's definition, bit by bit on Python integers; payloads worked out by hand."""

import inspect
import math
import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import PayloadError, bits
from compression.draws import random_positions
from compression.entropy import compress
from compression.index import IndexFormat, bitmap, choose, decode_index, elias_fano, encode_index, mixed, rice, seeded
from tests.compression.cases import EXAMPLES

WRITTEN = [IndexFormat.BITMAP, IndexFormat.ELIAS_FANO, IndexFormat.RICE, IndexFormat.GAPS]
SIZES = st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 100_000]))


@st.composite
def positions(draw: st.DrawFn) -> tuple[int, list[int]]:
    """Any subset; scattered ones and, as in real updates, runs."""
    n = draw(SIZES)
    if not n:
        return 0, []
    chosen = draw(st.sets(st.integers(0, n - 1), max_size=50))
    for start in draw(st.lists(st.integers(0, n - 1), max_size=3)):
        chosen |= set(range(start, min(n, start + draw(st.integers(1, 40)))))
    return n, sorted(chosen)


def indices(chosen: list[int]) -> Tensor:
    return torch.tensor(chosen, dtype=torch.int64)


def written(groups: list[list[tuple[int, int]]]) -> bytes:
    """Lists of (number, width), lowest bit first, each list filled up to a byte."""
    parts = []
    for fields in groups:
        whole, at = 0, 0
        for number, width in fields:
            whole |= (number & ((1 << width) - 1)) << at
            at += width
        parts.append(whole.to_bytes(-(-at // 8), "little"))
    return b"".join(parts)


def gaps_of(chosen: list[int]) -> list[int]:
    return [here - before - 1 for before, here in zip([-1, *chosen], chosen, strict=False)]


def elias_fano_bytes(n: int, chosen: list[int]) -> bytes:
    """l = floor(log2(n / k)) low bits of each position; then, in unary, the steps of the high parts."""
    k = len(chosen)
    if not k:
        return b""
    low = math.floor(math.log2(n / k))
    highs = sum(1 << ((p >> low) + i) for i, p in enumerate(chosen))
    return written([[(p, low) for p in chosen], [(highs, k + ((n - 1) >> low) + 1)]])


def rice_bytes(n: int, chosen: list[int]) -> bytes:
    """The parameter of each group by trying all 32."""
    gaps = gaps_of(chosen)
    groups = [gaps[i : i + 16] for i in range(0, len(gaps), 16)]
    best = [min(range(32), key=lambda b, g=group: sum((x >> b) + 1 + b for x in g)) for group in groups]
    pairs = [(gap, b) for group, b in zip(groups, best, strict=True) for gap in group]
    low = [[pair for pair in pairs if pair[1] == b] for b in range(1, 32)]
    return written([[(b, 5) for b in best], *low, [(1 << (gap >> b), (gap >> b) + 1) for gap, b in pairs]])


def gaps_bytes(n: int, chosen: list[int]) -> bytes:
    """Classes as zstd writes them, whose bytes are not ours to define, then what lies below."""
    numbers = [gap + 1 for gap in gaps_of(chosen)]
    classes = [min(15, number.bit_length() - 1) for number in numbers]
    packed = written([[(c, 4) for c in classes]])
    frame = compress(torch.tensor(list(packed), dtype=torch.uint8)).numpy().tobytes()
    below = [[(number, c) for number, c in zip(numbers, classes, strict=True) if c == width] for width in range(15)]
    below.append([(m - 1, max(n - 1, 0).bit_length()) for m, c in zip(numbers, classes, strict=True) if c == 15])
    return len(frame).to_bytes(4, "little") + frame + written(below)


def bitmap_bytes(n: int, chosen: list[int]) -> bytes:
    return sum(1 << p for p in chosen).to_bytes(-(-n // 8), "little")


DEFINITION = {
    IndexFormat.BITMAP: bitmap_bytes,
    IndexFormat.ELIAS_FANO: elias_fano_bytes,
    IndexFormat.RICE: rice_bytes,
    IndexFormat.GAPS: gaps_bytes,
}


@pytest.mark.parametrize(
    ("form", "n", "chosen", "text"),
    [
        (IndexFormat.BITMAP, 9, [0, 2, 8], "05 01"),
        (IndexFormat.ELIAS_FANO, 20, [3, 4, 17], "13 45"),
        (IndexFormat.RICE, 20, [3, 4, 17], "02 03 23"),
    ],
)
def test_by_hand(form: IndexFormat, n: int, chosen: list[int], text: str) -> None:
    """The example in each module's docstring."""
    assert encode_index(form, indices(chosen), n).numpy().tobytes() == bytes.fromhex(text)
    assert (
        decode_index(form, torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8), n, len(chosen)).tolist()
        == chosen
    )


def test_gaps_by_hand() -> None:
    """The example in `gaps`: the frame's length, the frame of 02 03, then 00 and 05. The frame, by RFC 8878: magic, a
    descriptor without content size, the window byte, one last raw block of 2 bytes (2 * 8 + 1 = 17 = 0x11)."""
    data = encode_index(IndexFormat.GAPS, indices([3, 4, 17]), 20).numpy().tobytes()
    frame = data[4:-2]
    assert data[:4] == len(frame).to_bytes(4, "little")
    assert frame[:5] == bytes.fromhex("28b52ffd 00")
    assert frame[6:] == bytes.fromhex("110000 02 03")
    assert data[-2:] == bytes.fromhex("00 05")


@pytest.mark.parametrize("form", WRITTEN)
@EXAMPLES
@given(case=positions())
def test_definition_and_back_again(form: IndexFormat, case: tuple[int, list[int]]) -> None:
    """Equal to the definition, byte for byte; decoding gives the positions."""
    n, chosen = case
    data = encode_index(form, indices(chosen), n)
    assert data.numpy().tobytes() == DEFINITION[form](n, chosen)
    assert decode_index(form, data, n, len(chosen)).tolist() == chosen


@EXAMPLES
@given(case=positions())
def test_predicted_sizes(case: tuple[int, list[int]]) -> None:
    """Sizes are known exactly before anything is written."""
    n, chosen = case
    kept, gaps = indices(chosen), mixed.to_gaps(indices(chosen))
    assert bitmap.size(n) == encode_index(IndexFormat.BITMAP, kept, n).numel()
    assert elias_fano.size(n, len(chosen)) == encode_index(IndexFormat.ELIAS_FANO, kept, n).numel()
    assert rice.size(gaps, rice.fit(gaps)) == encode_index(IndexFormat.RICE, kept, n).numel()


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65])
def test_every_position_and_the_whole_range(n: int, form: IndexFormat) -> None:
    """k = 0, k = n, and each single position."""
    for chosen in [torch.arange(0), torch.arange(n), *torch.arange(n).split(1)]:
        data = encode_index(form, chosen, n)
        assert torch.equal(decode_index(form, data, n, chosen.numel()), chosen)


@pytest.mark.parametrize("form", WRITTEN[1:])
@pytest.mark.parametrize(
    "chosen", [[0, 1, 2**31 - 1, 2**31, 2**32 - 3, 2**32 - 2], [2**32 - 2], [2**15 - 2, 2**16 - 2]]
)
def test_positions_of_a_large_vector(form: IndexFormat, chosen: list[int]) -> None:
    """Positions beyond 2^31, where 32-bit integers would wrap; gaps on both sides of the escape."""
    n = 2**32 - 1
    data = encode_index(form, indices(chosen), n)
    assert data.numpy().tobytes() == DEFINITION[form](n, chosen)
    assert decode_index(form, data, n, len(chosen)).tolist() == chosen


@EXAMPLES
@given(positions(), st.sampled_from([3, 16, 32]), st.booleans())
def test_the_smallest_format_is_chosen(case: tuple[int, list[int]], width: int, entropy: bool) -> None:
    """Oracle: all written out; at a tie the simpler, and the bytes are those of the format."""
    n, chosen = case
    forms = WRITTEN if entropy else WRITTEN[:-1]
    sizes = {IndexFormat.DENSE: width * n}
    sizes |= {form: 8 * len(DEFINITION[form](n, chosen)) + width * len(chosen) for form in forms}
    form, data = choose(indices(chosen), n, dense_bits=width * n, value_bits=width * len(chosen), entropy=entropy)
    assert form is next(form for form, size in sizes.items() if size == min(sizes.values()))
    assert data.numpy().tobytes() == (b"" if form is IndexFormat.DENSE else DEFINITION[form](n, chosen))


def test_each_format_is_chosen_somewhere() -> None:
    """Nearly all kept for DENSE, every other one for BITMAP, a single one for ELIAS_FANO, clusters for RICE and GAPS."""
    scattered = torch.randperm(100_000, generator=torch.Generator().manual_seed(1))[:1000].sort().values
    clusters = (scattered[::10, None] + torch.arange(40)).flatten().unique()
    cases = [
        (torch.arange(99), 100, False, IndexFormat.DENSE),
        (torch.arange(0, 1000, 2), 1000, False, IndexFormat.BITMAP),
        (torch.tensor([999]), 1000, False, IndexFormat.ELIAS_FANO),
        (clusters, 100_040, False, IndexFormat.RICE),
        (clusters, 100_040, True, IndexFormat.GAPS),
    ]
    for kept, n, entropy, expected in cases:
        form, data = choose(kept, n, dense_bits=32 * n, value_bits=32 * kept.numel(), entropy=entropy)
        assert form is expected
        if form is not IndexFormat.DENSE:
            assert torch.equal(decode_index(form, data, n, kept.numel()), kept)


def test_seeded_positions() -> None:
    """The key, little-endian, by hand; the positions are those of `random_positions`."""
    assert seeded.encode(258).tolist() == [2, 1, 0, 0, 0, 0, 0, 0]
    for key in (0, 258, 2**63 - 1):
        for n, k in ((0, 0), (1, 0), (1, 1), (1000, 7), (1000, 1000)):
            found = decode_index(IndexFormat.SEEDED, seeded.encode(key), n, k)
            assert torch.equal(found, random_positions(key, n, k, "cpu"))
    for wrong in ([0] * 7, [0] * 9, [0] * 7 + [128]):
        with pytest.raises(PayloadError):
            decode_index(IndexFormat.SEEDED, torch.tensor(wrong, dtype=torch.uint8), 10, 3)


def test_mistakes_of_the_caller() -> None:
    """A dense payload has no positions, seeded ones are written as their key."""
    with pytest.raises(ValueError, match="no positions"):
        decode_index(IndexFormat.DENSE, torch.empty(0, dtype=torch.uint8), 0, 0)
    with pytest.raises(ValueError, match="key"):
        encode_index(IndexFormat.SEEDED, torch.arange(3), 9)


@EXAMPLES
@given(case=positions())
def test_the_path_of_other_devices_gives_the_same_bytes(case: tuple[int, list[int]]) -> None:
    """Everything here is torch but the packing of bits; with its torch path on the CPU too, nothing changes."""
    n, chosen = case
    source = inspect.getsource(bits)
    assert '== "cpu"' in source
    other = types.ModuleType("compression.bits_elsewhere")
    exec(compile(source.replace('== "cpu"', '== "elsewhere"'), "bits_elsewhere", "exec"), other.__dict__)
    expected = [encode_index(form, indices(chosen), n) for form in WRITTEN]
    with pytest.MonkeyPatch.context() as patch:
        for module in (bitmap, elias_fano, mixed, rice):
            for name in ("flat_nonzero", "pack_bits", "pack_fixed", "unpack_bits", "unpack_fixed"):
                patch.setattr(module, name, getattr(other, name), raising=False)
        for form, data in zip(WRITTEN, expected, strict=True):
            assert torch.equal(encode_index(form, indices(chosen), n), data)
            assert decode_index(form, data, n, len(chosen)).tolist() == chosen
