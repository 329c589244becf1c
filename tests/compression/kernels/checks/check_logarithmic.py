"""Logarithmic codes. Oracle: the torch code of the formats on the CPU, with no kernel in use, itself tested against float64
logarithms."""

import pytest
import torch
from hypothesis import given

import compression.kernels as kernels
from compression.values import LOG2, LOG3, LOG4
from compression.values.logarithmic import Logarithmic
from tests.compression.kernels.checks.common import DEVICE, FEW, awkward
from tests.compression.values.examples import ANY

every = pytest.mark.parametrize("form", [LOG4, LOG3, LOG2], ids=str)


def check(form: Logarithmic, x: torch.Tensor) -> None:
    """The same bytes, and the same values of them, the sign of zero included."""
    with kernels.switched_off():
        words, codes = form.quantise(x)
        values = form.restore(words, codes, x.numel())
    found_words, found_codes = form.quantise(x.to(DEVICE))
    assert torch.equal(found_words.cpu(), words)
    assert torch.equal(found_codes.cpu(), codes)
    for given_codes in (codes, codes.long()):
        found = form.restore(words.to(DEVICE), given_codes.to(DEVICE), x.numel())
        assert found.cpu().numpy().tobytes() == values.numpy().tobytes()


@every
@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 1025])
def test_awkward(form: Logarithmic, n: int) -> None:
    """Ties, zeros of both signs, denormals, the largest numbers; blocks of one value and of all."""
    for x in awkward(n).values():
        check(form, x)


@every
@FEW
@given(x=ANY)
def test_any_vector(form: Logarithmic, x: torch.Tensor) -> None:
    """Any finite values, in blocks of their own sizes, with zeros and without."""
    check(form, x)


@every
def test_edges(form: Logarithmic) -> None:
    """Magnitudes on the edges between cells and beside them, around the bounds of what counts as zero, and rounded up to
    the largest bfloat16."""
    rows = []
    for low, high in [(1.0, 16.0), (2.0**-100, 2.0**-90), (1e30, 3.4e38), (2.0**-24, 1.0), (0.7, 0.7)]:
        edges, _ = form._grid(torch.tensor([low]), torch.tensor([high]))
        at = edges.view(-1)
        beside = [torch.nextafter(at, torch.tensor(to)) for to in (0.0, 3.4e38)]
        ends = torch.tensor([low, high, -high, low * (1 - 2**-24), low * (1 + 2**-23), 0.0])
        for given_ends in (ends[:3], ends):
            row = torch.cat((given_ends, at, *beside))
            rows.append(row.repeat(1 + 256 // row.numel())[:256])
    check(form, torch.cat(rows))


@every
def test_every_code_of_many_words(form: Logarithmic) -> None:
    """Every pair of ends of a coarse grid, with lo of both signs."""
    tops = torch.tensor([0x0001, 0x0080, 0x0D80, 0x3F80, 0x3F81, 0x4100, 0x7F7F], dtype=torch.int32)
    pairs = [(high, low) for high in tops.tolist() for low in tops.tolist() if low <= high]
    words = torch.tensor([high << 16 | low | sign for high, low in pairs for sign in (0, 0x8000)], dtype=torch.int32)
    codes = (torch.arange(256 * words.numel()) % form.code_count).to(torch.uint8)
    side = words.view(torch.uint8)
    with kernels.switched_off():
        values = form.restore(side, codes, codes.numel())
    found = form.restore(side.to(DEVICE), codes.to(DEVICE), codes.numel())
    assert found.cpu().numpy().tobytes() == values.numpy().tobytes()


def test_shapes_must_fit() -> None:
    """Blocks too long, and codes or words of other shapes, are an error, not a read beyond the end."""
    rows = torch.ones(2, 300, device=DEVICE)
    codes = torch.zeros(2, 300, dtype=torch.uint8, device=DEVICE)
    words = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    for x, target in ((rows, codes), (rows[:, :200], codes[:, :199]), (rows[:, :200], codes[:, :200])):
        with pytest.raises(ValueError, match="for blocks of shape"):
            kernels.to_cells(x, 3, target)
    for given_words, of in ((words, codes), (words[:1], codes[:, :200])):
        with pytest.raises(ValueError, match="for blocks of shape"):
            kernels.from_cells(given_words, of, 3)
