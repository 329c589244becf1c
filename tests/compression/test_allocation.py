"""What a decoder allocates. Oracle: a few bytes for a small model take a few times their own memory, whatever they claim."""

import struct
import tracemalloc

import pytest
import torch
from torch import Tensor

from compression import PayloadError, make_codec
from compression.entropy import compress
from compression.index import IndexFormat
from compression.wire import Kind, read
from tests.compression.cases import layers
from tests.compression.damage import LargestTensor, made, tensor

pytestmark = pytest.mark.slow

FLOAT = struct.pack("<f", 1.0)
EMPTY = torch.empty(0, dtype=torch.uint8)
MILLION = compress(torch.zeros(1_000_000, dtype=torch.uint8)).numpy().tobytes()
FILLS = {
    "zeros": bytes(88),
    "ones": b"\xff" * 88,
    # Whatever its length says, a frame of few bytes for a million.
    "a frame": MILLION,
    "a frame after its length": len(MILLION).to_bytes(4, "little") + MILLION,
    "a frame after a scale": FLOAT + MILLION,
}


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS.keys())
@pytest.mark.parametrize("index", list(IndexFormat))
def test_a_header_cannot_make_the_decoder_allocate(index: IndexFormat, fill: bytes) -> None:
    """Whatever the header claims of numbers, lengths and formats, a few bytes for 100 coordinates take no more memory
    than those need."""
    found = [
        made(fill, fill, index=index, value=value, parameter=int(value == 8), entropy=entropy, n=n, k=k, **lengths)
        for value in range(9)
        for entropy in (0, 1)
        for n in (100, 2**31, 2**32 - 1)
        for k in (0, 1, 100, 2**31, 2**32 - 1)
        for lengths in ({}, {"index_bytes": 0}, {"index_bytes": 2**32 - 1}, {"value_bytes": 2**32 - 1})
    ]
    with LargestTensor():  # modules that PyTorch imports when they are first needed take memory too
        for data in map(tensor, found):
            refused_or_read(data)
    tracemalloc.start()
    try:
        with LargestTensor() as largest:
            for data in map(tensor, found):
                largest.elements = 0
                before = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
                refused_or_read(data)
                assert tracemalloc.get_traced_memory()[1] - before < 1_000_000
                assert largest.elements <= 16 * data.numel()
    finally:
        tracemalloc.stop()


def refused_or_read(data: Tensor) -> None:
    for kind in (Kind.UPDATE, Kind.FACTORS):
        try:
            assert read(data, 100, kind).n == 100
        except PayloadError:
            continue


@pytest.mark.parametrize("spec", ["powersgd:1", "csr_codec:csr"])
def test_other_decoders_do_not_allocate_either(spec: str) -> None:
    """A header that claims 2^32 - 1 of everything, and nothing at all, for a model of two tensors."""
    codec, layout = make_codec(spec), layers(100)
    claims = [
        made(bytes(30), bytes(30), kind=2, n=n, k=n, index_bytes=size, value_bytes=size, entropy=entropy)
        for n in (0, 100, 2**31, 2**32 - 1)
        for size in (0, 30, 2**32 - 1)
        for entropy in (0, 1)
    ]
    for data in (EMPTY, *map(tensor, claims)):
        with LargestTensor() as largest, pytest.raises(PayloadError):
            codec.decode(data, 100, layout)
        assert largest.elements <= 1000
