"""Coding inside a mask. Oracles: indexing with the mask itself; for error feedback the invariant that what was decoded and
what remains are the update, which inside a mask holds on the held coordinates."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import Layout, Sender, Sparse, make_codec
from compression.draws import derive_key
from compression.masks.inside import MaskedLayout
from compression.select.cost import kind_of
from tests.compression.cases import EXAMPLES, FEW, layers

SPECS = (
    "none",
    "topk:0.1",
    "topk:0.2,scope=layer+int4",
    "int4",
    "int4+zstd",
    "randk:0.3+bf16",
    "cost:0.2",
    "powersgd:2",
)
EXACT = ("none", "topk:0.1", "cost:0.2")


def random_mask(n: int, density: float, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(n) < density)


@st.composite
def inside_masks(draw: st.DrawFn) -> tuple[Tensor, Layout, Tensor]:
    """A mask of any density, its layout, and a vector."""
    n, seed = draw(st.sampled_from([0, 1, 2, 9, 40, 129, 257])), draw(st.integers(0, 10**6))
    mask = random_mask(n, draw(st.sampled_from([0, 0.1, 0.5, 0.9, 1])), seed)
    return mask, layers(n), torch.randn(n, generator=torch.Generator().manual_seed(seed))


@EXAMPLES
@given(inside_masks())
def test_gather_then_scatter(case: tuple[Tensor, Layout, Tensor]) -> None:
    """The identity on held coordinates, zero elsewhere; the other way round the identity; into given memory the same."""
    mask, layout, x = case
    inside = MaskedLayout(mask, layout)
    y = inside.gather(x)
    assert torch.equal(y, x[mask])
    whole = inside.scatter(y)
    assert torch.equal(whole, torch.where(mask, x, 0.0))
    assert torch.equal(inside.gather(whole), y)
    out, small = torch.full_like(x, 7.0), torch.full_like(y, 7.0)
    assert inside.scatter(y, out=out) is out
    assert inside.gather(x, out=small) is small
    assert torch.equal(out, whole)
    assert torch.equal(small, y)


@EXAMPLES
@given(inside_masks())
def test_layout_inside(case: tuple[Tensor, Layout, Tensor]) -> None:
    """Each tensor's part is its held coordinates, under its name, and is taken for the same kind of layer."""
    mask, layout, x = case
    inside = MaskedLayout(mask, layout)
    assert inside.n == layout.total
    assert inside.layout.names == layout.names
    assert inside.support.dtype == torch.int64
    parts = inside.layout.views(inside.gather(x))
    for part, held, of_all in zip(parts, layout.views(mask), layout.views(x), strict=True):
        assert torch.equal(part.flatten(), of_all[held].flatten())
    for name, inner, outer in zip(layout.names, inside.layout.shapes, layout.shapes, strict=True):
        assert kind_of(name, inner) == kind_of(name, outer)


@EXAMPLES
@given(inside_masks(), st.booleans())
def test_lift_is_scatter_of_the_dense_vector(case: tuple[Tensor, Layout, Tensor], some: bool) -> None:
    """Of all held coordinates and of every third of them; positions ascend."""
    mask, layout, x = case
    inside = MaskedLayout(mask, layout)
    y = inside.gather(x)
    indices = torch.arange(0, y.numel(), 3) if some else None
    sparse = Sparse(y.numel(), indices, y if indices is None else y[indices])
    lifted = inside.lift(sparse)
    assert lifted.n == layout.total
    assert lifted.indices is not None
    assert bool((lifted.indices.diff() > 0).all())
    assert torch.equal(lifted.dense(), inside.scatter(sparse.dense()))


@pytest.mark.parametrize("spec", SPECS)
@FEW
@given(seed=st.integers(0, 10**6), density=st.sampled_from([0.1, 0.5, 0.9, 1.0]), n=st.sampled_from([1, 17, 129, 1000]))
def test_error_feedback_conserves_on_the_mask(spec: str, seed: int, density: float, n: int) -> None:
    """Four rounds: decoded + new residual == update + old residual where held, bit for bit where values are exact (else
    residual == total - decoded); nothing arrives elsewhere; and the payload knows only the m held coordinates."""
    mask, layout = random_mask(n, density, seed), layers(n)
    inside, sender = MaskedLayout(mask, layout), Sender(make_codec(spec))
    generator, old = torch.Generator().manual_seed(seed), torch.zeros(n)
    for number in range(4):
        update = torch.randn(n, generator=generator)
        payload, decoded = sender.encode(inside.gather(update), inside.layout, derive_key(seed, number))
        sender.keep()
        received = inside.lift(sender.codec.decode(payload, inside.layout.total, inside.layout)).dense()
        assert torch.equal(received, inside.lift(decoded).dense())
        assert not received[~mask].any()
        new, total = inside.scatter(residual(sender, inside.layout)), torch.where(mask, update, 0.0) + old
        assert torch.equal(new, total - received)
        if spec in EXACT:
            assert torch.equal(received + new, total)
        old = new


def residual(sender: Sender, layout: Layout) -> Tensor:
    """[m]; zeros where the codec leaves none."""
    state = sender.state_dict()
    if not any(name.startswith("residual.") for name in state):
        return torch.zeros(layout.total)
    return torch.cat([state[f"residual.{name}"].flatten() for name in layout.names])


def test_wrong_sizes_are_refused() -> None:
    """A mask, vectors and a sparse vector of another size, and a mask of numbers."""
    layout = Layout(("a", "b"), ((2, 2), (3,)))
    inside = MaskedLayout(torch.tensor([True, False, True, True, False, False, True]), layout)
    assert inside.layout.shapes == ((3, 1), (1,))
    with pytest.raises(ValueError, match=r"a bool vector of 7, not torch.bool of \(6,\)"):
        MaskedLayout(torch.ones(6, dtype=torch.bool), layout)
    with pytest.raises(ValueError, match="bool vector of 7"):
        MaskedLayout(torch.ones(7), layout)
    with pytest.raises(ValueError, match="one of 7 coordinates"):
        inside.gather(torch.ones(4))
    with pytest.raises(ValueError, match="one of 4 coordinates"):
        inside.scatter(torch.ones(7))
    with pytest.raises(ValueError, match="the mask holds 4"):
        inside.lift(Sparse(7, None, torch.ones(7)))
