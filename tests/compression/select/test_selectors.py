"""What holds for all selectors. Oracles: the global selector on each tensor (scope=layer), a fresh selector (reuse)."""

import pytest
import torch
from hypothesis import given
from torch import Tensor

from compression import Layout, SpecError
from compression.select import SELECTOR_NAMES
from tests.compression.cases import EXAMPLES, layers, vectors
from tests.compression.select.cases import selector

ALL = ("topk:0.1", "prune:0.9", "threshold:0.5", "randk:0.1", "cost:0.1,linear=2")


@pytest.mark.parametrize("stage", ["topk:0.2", "prune:0.8"])
@EXAMPLES
@given(x=vectors())
def test_scope_layer_takes_each_tensor_by_itself(stage: str, x: Tensor) -> None:
    """Empty tensors and scalars among them."""
    layout = layers(x.numel())
    parts = zip(x.split(layout.sizes), layout.offsets[:-1], strict=True)
    expected = [
        int(i) + offset for part, offset in parts if part.numel() for i in selector(stage).select(part, None, 0)
    ]
    assert selector(f"{stage},scope=layer").select(x, layout, 0).tolist() == expected


def test_scope_layer_needs_a_layout() -> None:
    """A mistake of the caller; a vector that does not fit the layout is one too."""
    with pytest.raises(ValueError, match="layout"):
        selector("topk:0.1,scope=layer").select(torch.ones(3), None, 0)
    with pytest.raises(RuntimeError):
        selector("topk:0.1,scope=layer").select(torch.ones(3), Layout(("a",), ((2,),)), 0)


def test_reuse_does_not_leak_between_vectors() -> None:
    """One selector on vectors of changing length equals a fresh one each time: its scratch memory holds no state."""
    used = {text: selector(text) for text in ALL}
    generator = torch.Generator().manual_seed(0)
    for n in (300_000, 10, 70_000, 0, 1, 262_145):
        x = torch.randn(n, generator=generator)
        kept, layout = x.clone(), layers(n)
        for text, one in used.items():
            assert torch.equal(one.select(x, layout, 7), selector(text).select(x, layout, 7))
        assert torch.equal(x, kept)


@pytest.mark.parametrize("text", ["topk:0.1", "cost:0.1"])
def test_the_first_use_may_be_in_inference_mode(text: str) -> None:
    """Scratch memory made there is still usable outside."""
    one, x, layout = selector(text), torch.arange(20.0), Layout(("a",), ((20,),))
    with torch.inference_mode():
        one.select(x, layout, 0)
    assert one.select(x, layout, 0).tolist() == [18, 19]


@pytest.mark.parametrize("text", ["topk:{},scope=layer", "prune:{}", "randk:{}", "cost:{},linear=3"])
def test_with_density_is_the_selector_of_that_density(text: str) -> None:
    """All other settings stay, and the first selector too."""
    x = torch.randn(5000, generator=torch.Generator().manual_seed(2))
    layout = layers(5000)
    first, then = (0.9, 0.75) if text.startswith("prune") else (0.1, 0.25)
    one = selector(text.format(first))
    other = one.with_density(0.25)
    assert one.density == pytest.approx(0.1)
    assert other.density == 0.25
    assert torch.equal(other.select(x, layout, 3), selector(text.format(then)).select(x, layout, 3))
    assert torch.equal(one.select(x, layout, 3), selector(text.format(first)).select(x, layout, 3))


def test_a_threshold_has_no_density() -> None:
    """Its count depends on the values."""
    one = selector("threshold:0.5")
    assert one.density is None
    with pytest.raises(SpecError, match="no kept fraction"):
        one.with_density(0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topk:0", "kept fraction"),
        ("topk:0.1,scope=tensor", "global or layer"),
        ("topk", "argument"),
        ("prune:1.5", "sparsity"),
        ("threshold:0", "threshold"),
        ("randk:2", "kept fraction"),
        ("randk:0.1,scope=layer", "no option 'scope'"),
        ("cost:0.1,conf=2", "did you mean 'conv'"),
        ("cost:0.1,conv=0", "conv must lie between 0.001 and 1000"),
        ("cost:0.1,conv=0.0015", "three decimals"),
        ("cost:0.1,conv=nan", "conv must be a number"),
        ("cost:0.1,conv=much", "conv must be a number"),
        ("topkk:0.1", "did you mean 'topk'"),
    ],
)
def test_wrong_specifications_say_what_would_be_right(text: str, message: str) -> None:
    """SpecError with the value and the option."""
    with pytest.raises(SpecError, match=message):
        selector(text)


def test_every_name_makes_a_selector() -> None:
    """SELECTOR_NAMES is what make_selector knows."""
    for name in SELECTOR_NAMES:
        assert selector(f"{name}:0.1").select(torch.ones(1), layers(1), 0).tolist() == [0]
