"""Dropout by bytes does what `nn.Dropout` does, with other random numbers."""

import pytest
import torch
from torch import nn

from fl.models.dropout import ByteDropout


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 255 / 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_number_is_dropped_with_probability_p_and_the_others_grow(p: float, dtype: torch.dtype) -> None:
    """Oracle: the definition of inverted dropout (Srivastava et al. 2014): numbers are 0 with probability p, within five
    standard deviations of 200,000 draws, and 1 / (1 - p) otherwise. The gradient has the same factors."""
    torch.manual_seed(0)
    x = torch.ones(8, 25_000, dtype=dtype, requires_grad=True)
    y = ByteDropout(p)(x)
    assert set(y.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}
    assert abs((y == 0).double().mean().item() - p) <= 5 * (p * (1 - p) / y.numel()) ** 0.5
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_numbers_are_dropped_independently() -> None:
    """Oracle: of neighbours, in memory and eight apart, both are dropped with probability p^2."""
    torch.manual_seed(0)
    dropped = (ByteDropout(0.5)(torch.ones(400_000)) == 0).double()
    for apart in range(1, 17):
        both = (dropped[apart:] * dropped[:-apart]).mean().item()
        assert abs(both - 0.25) < 0.005, f"{apart} apart"


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, 3, 5, 7).to(memory_format=torch.channels_last),
        torch.ones(4, 6).t(),
        torch.ones(4, 6)[:, ::2],
        torch.ones(1, 6).expand(4, 6),
        torch.ones(13),
        torch.ones(()),
        torch.ones(0, 4),
    ],
    ids=["channels last", "transposed", "strided", "expanded", "no multiple of eight", "scalar", "empty"],
)
def test_any_layout(x: torch.Tensor) -> None:
    """Values are 0 or doubled whatever the strides, the input stays as it was, and the same seed gives the same mask."""
    layer = ByteDropout(0.5)
    torch.manual_seed(1)
    y = layer(x)
    assert y.shape == x.shape
    assert ((y == 0) | (y == 2)).all()
    assert (x == 1).all()
    torch.manual_seed(1)
    assert torch.equal(layer(x), y)


def test_evaluation_and_a_module_that_others_know() -> None:
    """In evaluation nothing happens, and it counts as a Dropout."""
    x = torch.randn(3, 4)
    layer = ByteDropout(0.25)
    assert isinstance(layer, nn.Dropout)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("p", [0.1, 1.0])
def test_a_probability_that_bytes_cannot_meet(p: float) -> None:
    """It is refused, instead of rounded."""
    with pytest.raises(ValueError, match="1/256"):
        ByteDropout(p)
