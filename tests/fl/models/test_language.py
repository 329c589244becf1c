"""Language networks: their sizes, and that no token sees those after it."""

import math

import pytest
import torch

from fl.common.config import ModelOptions
from fl.common.errors import ConfigError
from fl.models import build_model, context_of


def _build(model: str, classes: int = 65, length: int = 64) -> torch.nn.Module:
    return build_model(
        ModelOptions(model=model),
        classes=classes,
        in_channels=1,
        image_size=1,
        sample_shape=(length,),
        seed=0,
        tokens=True,
    )


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("gpt", 804_096),
        ("gpt:layers=2,heads=2,width=32,context=16", 65 * 32 + 16 * 32 + 2 * (12 * 32**2 + 2 * 32) + 32),
        ("char_lstm", 798_720 + 265 * 65),
    ],
)
def test_parameters(model: str, count: int) -> None:
    """The formulas of the docstrings; the tied weight counts once."""
    network = _build(model, length=16)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize("model", ["gpt:layers=2,heads=2,width=32", "char_lstm"])
def test_no_token_sees_those_after_it(model: str) -> None:
    """Invariant of a causal model: another token at place 5 changes no output before it."""
    network = _build(model).eval()
    x = torch.arange(16)[None] % 65
    other = x.clone()
    other[0, 5] = 64
    with torch.no_grad():
        before, after = network(x), network(other)
    assert torch.allclose(before[0, :5], after[0, :5], atol=1e-6)
    assert not torch.allclose(before[0, 5], after[0, 5], atol=1e-6)


def test_an_untrained_gpt_guesses() -> None:
    """At first every token is about as likely: a loss near ln(65)."""
    logits = _build("gpt")(torch.arange(64)[None])
    loss = torch.nn.functional.cross_entropy(logits[0], torch.arange(64).roll(7))
    assert loss.item() == pytest.approx(math.log(65), abs=0.15)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("gpt:width=30,heads=4", "width 30 must be a multiple of the 4 heads"),
        ("gpt:depth=3", "no option 'depth'"),
        ("gpt:layers=2.5", "whole number"),
        ("gpt:4", "takes 0 argument"),
        ("char_lstm:layers=3", "no option 'layers'"),
        ("gpt:context=8", "at most 8 tokens at once: --context 64 is more"),
        ("lenet5", "takes no text"),
    ],
)
def test_mistakes(model: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _build(model)


def test_contexts() -> None:
    """What a sample has where --context is not given."""
    assert [context_of(model) for model in ("gpt", "gpt:context=32", "char_lstm", "resnet18")] == [64, 32, 80, None]
