"""Scores. Oracles: the papers' definitions, in NumPy or by torch's own derivatives."""

import numpy as np
import pytest
import torch
from torch import nn

from compression.draws import uniform
from fl.pruning import score
from fl.pruning.score import SquaredUpdates, gradient, magnitude, random, snip
from fl.pruning.spec import WEIGHT_SCORES


def numbers(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def test_magnitude_is_the_absolute_value() -> None:
    """In NumPy; in fp32 whatever the weights are in."""
    weights = numbers(100, 0)
    assert np.array_equal(magnitude(weights).numpy(), np.abs(weights.numpy()))
    assert magnitude(weights.bfloat16()).dtype == torch.float32


def test_random_is_a_function_of_the_key() -> None:
    """The draws of the library, and others for another key."""
    assert torch.equal(random(7, 50, "cpu"), uniform(7, 50, "cpu"))
    assert not torch.equal(random(7, 50, "cpu"), random(8, 50, "cpu"))


def test_snip_is_the_derivative_by_a_gate_on_each_weight() -> None:
    """Lee et al. 2019, equation 4: |dL / dc| at c = 1 for the network with weights c * w, by autograd on c."""
    x, y, w = numbers(60, 1).view(20, 3), numbers(20, 2), numbers(3, 3)
    gates = torch.ones(3, requires_grad=True)
    nn.functional.mse_loss((x @ (gates * w)).tanh(), y).backward()
    weights = w.clone().requires_grad_()
    nn.functional.mse_loss((x @ weights).tanh(), y).backward()
    assert gates.grad is not None
    assert weights.grad is not None
    torch.testing.assert_close(snip(w, weights.grad), gates.grad.abs())


def test_gradient_is_what_the_rounds_that_succeeded_had() -> None:
    """The sum of g^2 over three rounds, in fp64; one that fails after it was learnt does not count."""
    updates = [numbers(40, seed) for seed in range(3)]
    squares = SquaredUpdates(torch.zeros(40), watch=True)
    for update in updates:
        squares.learn(update + 1)
        squares.rollback()
        squares.learn(update)
        squares.commit()
    exact = sum(update.double().numpy() ** 2 for update in updates)
    np.testing.assert_allclose(gradient(squares.total).numpy(), exact, rtol=1e-6)
    assert not SquaredUpdates(torch.zeros(40), watch=False)


def test_gradient_refuses_signed_sums() -> None:
    """Sums that can cancel say nothing; none at all are no sum."""
    with pytest.raises(ValueError, match="one of them is negative"):
        gradient(torch.tensor([1.0, -1.0]))
    assert gradient(torch.empty(0)).numel() == 0


@pytest.mark.parametrize("method", WEIGHT_SCORES)
def test_every_method_that_goes_by_weights_alone_has_a_score(method: str) -> None:
    """One that had none would silently get that of magnitude."""
    assert method in score._BY_WEIGHTS
