"""Which samples which networks take. Oracle: shapes of their outputs, and the words of the refusal."""

import re

import pytest
import torch

from fl.common.config import ModelOptions
from fl.common.errors import ConfigError
from fl.models import build_model


def _build(name: str, shape: tuple[int, ...], classes: int = 3) -> torch.nn.Module:
    return build_model(
        ModelOptions(model=name), classes=classes, in_channels=0, image_size=0, sample_shape=shape, seed=0
    )


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet5", (1, 28, 28)),
        ("resnet18", (3, 32, 32)),
        ("temperature_lstm", (12, 4)),
        ("mlp", (12, 4)),
        ("mlp", (9,)),
        ("tests.user_tasks:last", (12, 5)),
    ],
)
@pytest.mark.parametrize(("classes", "outputs"), [(3, 3), (0, 1)])
def test_outputs(name: str, shape: tuple[int, ...], classes: int, outputs: int) -> None:
    """One output for each class, and a single one for numbers; a user's function is told so many."""
    model = _build(name, shape, classes).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, outputs)


@pytest.mark.parametrize(
    ("name", "shape", "takes"),
    [
        ("lenet5", (12, 4), "images"),
        ("resnet50", (7,), "images"),
        ("temperature_lstm", (3, 32, 32), "windows"),
        ("temperature_lstm", (7,), "windows"),
        ("mlp", (1, 8, 8), "windows and rows"),
    ],
)
def test_other_samples_are_refused(name: str, shape: tuple[int, ...], takes: str) -> None:
    """One sentence that names the network and the shape."""
    with pytest.raises(ConfigError, match=re.escape(f"--model {name} takes {takes}") + ".*" + re.escape(str([*shape]))):
        _build(name, shape)


def test_without_a_shape_they_are_square_images() -> None:
    """The same network as with the shape written out."""
    options = ModelOptions(model="lenet5")
    square = build_model(options, classes=3, in_channels=1, image_size=20, seed=0)
    written = _build("lenet5", (1, 20, 20))
    assert all(torch.equal(a, b) for a, b in zip(square.parameters(), written.parameters(), strict=True))
