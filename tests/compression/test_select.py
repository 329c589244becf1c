"""Selectors. Oracle: a stable sort of all magnitudes in NumPy (topk); comparison with the bound (threshold)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import Layout
from compression.select import Selector, make_selector
from compression.spec import parse_stage
from tests.compression.cases import EXAMPLES, largest, layers, vectors

BIG = 200_000


def selector(text: str) -> Selector:
    return make_selector(parse_stage(text))


def wide(name: str) -> Tensor:
    """Vectors beyond the sample of 32,768 that look different from their sample, or have a great many ties."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(BIG).astype(np.float32)
    if name == "first block":
        x[4096:] *= 1e-6
    elif name == "outside the sample":
        sampled = np.arange(1 << 15, dtype=np.int64) * 2654435769 % (1 << 32) * BIG >> 32
        x *= 1e3
        x[sampled] *= 1e-6
    elif name == "only the sample":
        sampled = np.arange(1 << 15, dtype=np.int64) * 2654435769 % (1 << 32) * BIG >> 32
        mask = np.ones(BIG, dtype=bool)
        mask[sampled] = False
        x[mask] = 0
    elif name == "ties":
        x = np.sign(x) * rng.integers(1, 3, BIG).astype(np.float32)
    elif name == "all equal":
        x[:] = -0.25
    elif name == "all zero":
        x[:] = 0
    elif name == "mostly zero":
        x[rng.random(BIG) < 0.999] = 0
    elif name == "one":
        x[:] = 0
        x[123_457] = -1e-45
    elif name == "denormal":
        x = (x * np.float32(1e-40)).astype(np.float32)
    elif name == "huge":
        x = np.clip(x, -1, 1) * np.float32(3.4e38)
    elif name == "sorted":
        x = np.sort(x)
    elif name == "every seventh":
        x[np.arange(BIG) % 7 != 3] = 0
    return torch.from_numpy(x)


WIDE = [
    "normal",
    "first block",
    "outside the sample",
    "only the sample",
    "ties",
    "all equal",
    "all zero",
    "mostly zero",
]
WIDE += ["one", "denormal", "huge", "sorted", "every seventh"]


@EXAMPLES
@given(vectors(), st.floats(1e-9, 1))
def test_topk_is_the_stable_sort(x: Tensor, ratio: float) -> None:
    """Exactly max(1, round(R n)) positions, those of the largest magnitudes, ties to the lowest position."""
    n = x.numel()
    expected = largest(x.numpy(), min(n, max(1, round(ratio * n))))
    found = selector(f"topk:{ratio!r}").select(x)
    assert found.dtype == torch.int64
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("name", WIDE)
def test_topk_of_a_sample_that_misleads(name: str) -> None:
    """The sample decides how long it takes, never what is found."""
    x = wide(name)
    for ratio in (1e-9, 0.0001, 0.01, 0.2, 0.5, 0.99):
        expected = largest(x.numpy(), max(1, round(ratio * BIG)))
        assert np.array_equal(selector(f"topk:{ratio}").select(x).numpy(), expected), ratio


@pytest.mark.parametrize("n", [32767, 32768, 32769, (1 << 18) - 1, 1 << 18, (1 << 18) + 1])
def test_topk_where_sample_and_chunks_begin(n: int) -> None:
    """Lengths around the sample's and the chunk's."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(n))
    x[-1], x[0] = 100.0, -100.0
    for ratio in (1e-9, 0.01, 0.6):
        expected = largest(x.numpy(), max(1, round(ratio * n)))
        assert np.array_equal(selector(f"topk:{ratio}").select(x).numpy(), expected)


@EXAMPLES
@given(vectors(), st.sampled_from([1e-38, 1e-40 * 100, 1e-3, 0.5, 1.0, 2.0, 65504.0, 1e38]))
def test_threshold_is_a_comparison(x: Tensor, threshold: float) -> None:
    """|x| >= T, with T in fp32."""
    expected = np.flatnonzero(np.abs(x.numpy()) >= np.float32(threshold))
    assert selector(f"threshold:{threshold!r}").select(x).tolist() == expected.tolist()


@pytest.mark.parametrize("name", WIDE)
def test_threshold_of_long_vectors(name: str) -> None:
    """Over several chunks, and never a zero."""
    x = wide(name)
    for threshold in (1e-38, 1e-3, 1.0):
        expected = np.flatnonzero(np.abs(x.numpy()) >= np.float32(threshold))
        assert np.array_equal(selector(f"threshold:{threshold}").select(x).numpy(), expected)


@EXAMPLES
@given(vectors(), st.floats(0, 1))
def test_prune_keeps_the_upper_part(x: Tensor, sparsity: float) -> None:
    """Up to 32,768 coordinates the quantile is exact: the (1 - S) n largest and what ties with the smallest of them;
    never a zero."""
    magnitudes = np.abs(x.numpy())
    found = selector(f"prune:{sparsity!r}").select(x).numpy()
    bound = np.sort(magnitudes)[::-1][max(1, round((1 - sparsity) * x.numel())) - 1] if x.numel() else 0
    assert found.tolist() == np.flatnonzero((magnitudes >= bound) & (magnitudes > 0)).tolist()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("name", ["normal", "sorted", "first block", "denormal", "huge"])
def test_prune_by_a_sampled_quantile(name: str, sparsity: float) -> None:
    """The kept fraction is 1 - S within five standard deviations of a sample of 32,768."""
    x = wide(name)
    if name == "huge":
        x = x * torch.rand(BIG, generator=torch.Generator().manual_seed(0))
    found = selector(f"prune:{sparsity}").select(x).numpy()
    spread = 5 * np.sqrt(sparsity * (1 - sparsity) / (1 << 15)) + 1e-4
    assert abs(found.size / BIG - (1 - sparsity)) <= spread
    magnitudes = np.abs(x.numpy())
    assert magnitudes[found].min() >= np.delete(magnitudes, found).max(initial=0)


@pytest.mark.parametrize("stage", ["topk:0.2", "prune:0.8"])
@EXAMPLES
@given(x=vectors())
def test_scope_layer_takes_each_tensor_by_itself(stage: str, x: Tensor) -> None:
    """Oracle: the global selector on each tensor; empty tensors and scalars among them."""
    layout = layers(x.numel())
    parts = zip(x.split(layout.sizes), layout.offsets[:-1], strict=True)
    expected = [int(i) + offset for part, offset in parts if part.numel() for i in selector(stage).select(part)]
    assert selector(f"{stage},scope=layer").select(x, layout).tolist() == expected


def test_scope_layer_needs_a_layout() -> None:
    """A mistake of the caller; a vector that does not fit the layout is one too."""
    with pytest.raises(ValueError, match="layout"):
        selector("topk:0.1,scope=layer").select(torch.ones(3))
    with pytest.raises(RuntimeError):
        selector("topk:0.1,scope=layer").select(torch.ones(3), Layout(("a",), ((2,),)))


def test_reuse_does_not_leak_between_vectors() -> None:
    """One selector on vectors of changing length equals a fresh one each time: its scratch memory holds no state."""
    used = {text: selector(text) for text in ("topk:0.1", "prune:0.9", "threshold:0.5")}
    generator = torch.Generator().manual_seed(0)
    for n in (300_000, 10, 70_000, 0, 1, 262_145):
        x = torch.randn(n, generator=generator)
        kept = x.clone()
        for text, one in used.items():
            assert torch.equal(one.select(x), selector(text).select(x))
        assert torch.equal(x, kept)


def test_the_first_use_may_be_in_inference_mode() -> None:
    """Scratch memory made there is still usable outside."""
    one, x = selector("topk:0.1"), torch.arange(20.0)
    with torch.inference_mode():
        one.select(x)
    assert one.select(x).tolist() == [18, 19]
