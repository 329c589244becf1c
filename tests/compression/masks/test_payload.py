"""Masks as payloads. Oracles: the mask itself; payloads written out by hand from the docstrings; the entropy of a mask's
density; and for damaged bytes the rule that they are a mask of n coordinates or a PayloadError."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import PayloadError, Sparse
from compression.bits import flat_nonzero
from compression.index import IndexFormat
from compression.masks.payload import decode_mask, encode_mask
from compression.wire import HEADER_BYTES, Kind
from tests.compression.cases import EXAMPLES
from tests.compression.damage import Case, LargestTensor, damaged, header, tensor

SIZES = st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 255, 256, 257, 1023, 1024, 1025]))


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    """Any density, scattered and in runs, of either value."""
    n = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    mask = rng.random(n) < draw(st.sampled_from([0, 0.01, 0.1, 0.4, 0.5, 0.7, 0.95, 1]))
    for start in draw(st.lists(st.integers(0, n), max_size=3)):
        mask[start : start + draw(st.integers(1, 400))] = draw(st.booleans())
    return torch.from_numpy(mask)


def scattered(n: int, density: float, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) < density


def entropy_bytes(mask: Tensor) -> float:
    """n H(density) / 8."""
    p = float(mask.double().mean())
    return 0 if p in (0, 1) else -mask.numel() * (p * math.log2(p) + (1 - p) * math.log2(1 - p)) / 8


def layers(per_layer: bool) -> Tensor:
    """Ten layers of 64 filters of 900 weights: each layer of its own density, or half of all filters dropped whole."""
    generator = torch.Generator().manual_seed(5)
    if not per_layer:
        return (torch.rand(640, generator=generator) < 0.5).repeat_interleave(900)
    densities = torch.linspace(0.05, 0.95, 10).repeat_interleave(64 * 900)
    return torch.rand(densities.numel(), generator=generator) < densities


def form_and_flag(payload: Tensor) -> tuple[IndexFormat, int]:
    return IndexFormat(int(payload[4])), int(payload[7])


@EXAMPLES
@given(masks())
def test_back_again(mask: Tensor) -> None:
    """The mask, and a payload as long as its header says; nothing but a header where all or none are held."""
    payload = encode_mask(mask)
    found = decode_mask(payload, mask.numel())
    assert found.dtype is torch.bool
    assert torch.equal(found, mask)
    assert payload.numel() == HEADER_BYTES + int.from_bytes(payload[16:20].numpy().tobytes(), "little")
    if mask.all() or not mask.any():
        assert payload.numel() == HEADER_BYTES


@pytest.mark.parametrize("dropped", [False, True])
def test_by_hand(dropped: bool) -> None:
    """3, 4 and 17 of 20: the bytes that `elias_fano` works out by hand, and which side they are."""
    mask = torch.zeros(20, dtype=torch.bool).index_fill_(0, torch.tensor([3, 4, 17]), True)
    fields = {"kind": 3, "index": 2, "parameter": int(dropped), "n": 20, "k": 3, "index_bytes": 2}
    assert encode_mask(~mask if dropped else mask).numpy().tobytes() == header(**fields) + bytes.fromhex("13 45")


def test_one_parameter_for_all_gaps() -> None:
    """RICE with the flag, written out on Python's integers: the parameter, low bits of every gap, quotients in unary."""
    mask = scattered(5000, 0.04)
    positions = [-1, *flat_nonzero(mask).tolist()]
    gaps = [here - before - 1 for before, here in itertools.pairwise(positions)]
    b = min(range(32), key=lambda b: sum(b + (gap >> b) + 1 for gap in gaps))
    low, unary, at = 0, 0, 0
    for i, gap in enumerate(gaps):
        low |= (gap & ((1 << b) - 1)) << (i * b)
        at += (gap >> b) + 1
        unary |= 1 << (at - 1)
    payload = encode_mask(mask)
    assert form_and_flag(payload) == (IndexFormat.RICE, 1)
    expected = bytes([b]) + low.to_bytes(-(-b * len(gaps) // 8), "little") + unary.to_bytes(-(-at // 8), "little")
    assert payload[HEADER_BYTES:].numpy().tobytes() == expected


def test_a_bitmap_through_zstandard() -> None:
    """BITMAP with the flag is a frame that zstd itself reads, of the bitmap that NumPy packs, of the smaller side."""
    mask = layers(per_layer=True)
    payload = encode_mask(mask)
    assert form_and_flag(payload) == (IndexFormat.BITMAP, 1)
    side = ~mask if payload[6] else mask
    assert 2 * int(side.sum()) <= mask.numel()
    frame = payload[HEADER_BYTES:].numpy().tobytes()
    bitmap = zstandard.ZstdDecompressor().decompress(frame, max_output_size=mask.numel())
    assert bitmap == np.packbits(side.numpy(), bitorder="little").tobytes()


@pytest.mark.parametrize("n", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("density", [0.001, 0.003, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_scattered_masks_take_their_entropy(n: int, density: float) -> None:
    """At most 1.05 times, the header, and two bytes because each part is filled up to a byte."""
    mask = scattered(n, density)
    payload, entropy = encode_mask(mask), entropy_bytes(mask)
    assert payload.numel() <= 1.05 * entropy + HEADER_BYTES + 2
    assert torch.equal(decode_mask(payload, n), mask)


@pytest.mark.parametrize(("per_layer", "part"), [(True, 0.8), (False, 0.02)])
def test_clustered_masks_take_less(per_layer: bool, part: float) -> None:
    """Layers of different densities (the mean of their entropies is 0.72 of the whole's), and whole filters."""
    mask = layers(per_layer)
    payload = encode_mask(mask)
    assert payload.numel() <= part * entropy_bytes(mask)
    assert torch.equal(decode_mask(payload, mask.numel()), mask)


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, 2, dtype=torch.bool)])
def test_only_bool_vectors_are_masks(mask: Tensor) -> None:
    """Anything else is a mistake of the program."""
    with pytest.raises(ValueError, match="a mask is a bool vector, not"):
        encode_mask(mask)


def as_case(mask: Tensor) -> Case:
    """For `damaged`, which wants a vector decoded."""

    def decode(data: Tensor) -> Sparse:
        held = flat_nonzero(decode_mask(data, mask.numel()))
        return Sparse(mask.numel(), held, torch.ones(held.numel()))

    return Case(mask.numel(), encode_mask(mask).numpy().tobytes(), decode)


def cases() -> list[Case]:
    """Every format, flag and side; sizes from none on."""
    few = [scattered(n, density) for n in (0, 1, 9, 40, 257, 1000) for density in (0.02, 0.3, 0.5, 0.9)]
    runs = [torch.tensor([False, True]).repeat_interleave(part).repeat(5) for part in (7, 90)]
    blocks = [torch.cat((scattered(2000, 0.02), scattered(2000, 0.9, 1)))]
    return [as_case(mask) for mask in (*few, *runs, *blocks)]


@pytest.mark.slow
def test_damaged_masks_are_masks_or_refused() -> None:
    """20,000 of them, for every format and flag; no operation returns more than a few times what is there."""
    rng, known, outcomes = random.Random(5), cases(), dict.fromkeys((False, True), 0)
    seen = {(case.payload[4], case.payload[7]) for case in known}
    assert seen >= {(1, 0), (2, 0), (3, 1), (1, 1), (5, 0)}, seen
    for _ in range(20_000):
        case = rng.choice(known)
        data = tensor(damaged(case, known, rng))
        with LargestTensor() as largest:
            try:
                mask = decode_mask(data, case.n)
            except PayloadError:
                outcomes[False] += 1
            else:
                assert mask.dtype is torch.bool
                assert mask.shape == (case.n,)
                outcomes[True] += 1
        assert largest.elements <= 16 * (case.n + data.numel()) + 1024
    assert min(outcomes.values()) > 1000, outcomes


GOOD = {"kind": Kind.MASK, "index": 2, "n": 20, "k": 3, "index_bytes": 2}
POSITIONS = bytes.fromhex("13 45")
RICE = {"kind": Kind.MASK, "index": 3, "entropy": 1, "n": 20, "k": 3}
REFUSED = {
    "nothing": b"",
    "half a header": header(**GOOD)[:12],
    "another magic": b"XX" + header(**GOOD)[2:] + POSITIONS,
    "another version": header(**{**GOOD, "version": 1}) + POSITIONS,
    "an update": header(**{**GOOD, "kind": 0}) + POSITIONS,
    "another n": header(**{**GOOD, "n": 21}) + POSITIONS,
    "no index format": header(**{**GOOD, "index": 9}) + POSITIONS,
    "dense": header(**{**GOOD, "index": 0}) + POSITIONS,
    "positions from a key": header(**{**GOOD, "index": 4, "index_bytes": 8}) + bytes(8),
    "a third side": header(**{**GOOD, "parameter": 2}) + POSITIONS,
    "a value format": header(**{**GOOD, "value": 1}) + POSITIONS,
    "values": header(**{**GOOD, "value_bytes": 1}) + POSITIONS,
    "a flag that the format lacks": header(**{**GOOD, "entropy": 1}) + POSITIONS,
    "a flag of 2": header(**{**GOOD, "entropy": 2}) + POSITIONS,
    "the larger side": header(kind=Kind.MASK, index=1, n=20, k=17, index_bytes=3) + bytes.fromhex("e7 ff 0d"),
    "another length": header(**{**GOOD, "index_bytes": 3}) + POSITIONS,
    "a byte too few": header(**GOOD) + POSITIONS[:1],
    "a byte too many": header(**GOOD) + POSITIONS + b"\0",
    "no parameter": header(**RICE),
    "a parameter alone": header(**RICE, index_bytes=1) + b"\2",
    "a frame that is none": header(**{**GOOD, "index": 1, "entropy": 1}) + POSITIONS,
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    """Each differs in one thing from a payload that is fine (`test_by_hand` and the next test)."""
    with pytest.raises(PayloadError):
        decode_mask(tensor(REFUSED[what]), 20)


def test_what_the_refused_ones_differ_from() -> None:
    """3, 4 and 17 of 20, with one Rice parameter: the bytes that `rice` works out by hand."""
    for data in (header(**GOOD) + POSITIONS, header(**RICE, index_bytes=3) + bytes([2, 0x03, 0x23])):
        assert flat_nonzero(decode_mask(tensor(data), 20)).tolist() == [3, 4, 17]


def test_a_parameter_too_large_for_its_bits() -> None:
    """32 in fields of 5 bits would be read as 0, 1, 1, ..., 1: the rest of this payload fits those."""
    body = bytes([32]) + bytes(14) + b"\xff" * 16
    with pytest.raises(PayloadError, match="at most 31, not 32"):
        decode_mask(tensor(header(**{**RICE, "n": 300, "k": 128}, index_bytes=len(body)) + body), 300)
