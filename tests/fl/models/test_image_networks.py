"""VGG-11 and the network for faces. Oracles: the published counts, layer by layer; the resolutions that follow from the
layers; He et al.'s (2015) derivation of first weights."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from fl.common.config import ModelOptions
from fl.common.errors import ConfigError
from fl.models import build_model
from fl.pruning.structured import shrink

_SHAPES = {"vgg11": (10, 3, 32), "emotion_cnn": (7, 1, 48)}


def build(name: str, *, seed: int = 0, image_size: int | None = None) -> nn.Module:
    """The network for its own data set's images, or for some of another size."""
    classes, channels, size = _SHAPES[name]
    options = ModelOptions(model=name)
    return build_model(options, classes=classes, in_channels=channels, image_size=image_size or size, seed=seed)


def layers(model: nn.Module) -> list[int]:
    """Parameters of each layer that has any."""
    return [sum(p.numel() for p in module.parameters()) for module in model if any(True for _ in module.parameters())]


def test_vgg11_by_layers() -> None:
    """Oracle: PruneFL's count; in_channels * 9 * channels + channels of each convolution, 512 features left of 32x32."""
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    convolutions = [9 * a * b + b for a, b in pairwise(widths)]
    found = layers(build("vgg11"))
    assert found == [*convolutions, 512 * 513, 512 * 513, 10 * 513]
    assert sum(found) == 9_750_922


def test_emotion_cnn_by_layers() -> None:
    """Oracle: the published count; 48 pixels become 46, 44, 22, 20, 10, 8 and 4, so fc 1024 reads 128 * 4 * 4."""
    found = layers(build("emotion_cnn"))
    assert found == [10 * 32, 289 * 64, 577 * 128, 1153 * 128, 2049 * 1024, 1025 * 7]
    assert sum(found) == 2_345_607


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_size"), [("vgg11", 64), ("vgg11", 47), ("emotion_cnn", 24), ("emotion_cnn", 64)]
)
def test_other_sizes(name: str, image_size: int) -> None:
    """Oracle: the shape of the result, and a finite gradient everywhere."""
    model = build(name, image_size=image_size)
    classes, channels, _ = _SHAPES[name]
    result = model(torch.rand(2, channels, image_size, image_size))
    assert result.shape == (2, classes)
    result.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(("name", "smallest"), [("vgg11", 32), ("emotion_cnn", 24)])
def test_images_too_small(name: str, smallest: int) -> None:
    """Oracle: one pixel less is refused, in one sentence."""
    with pytest.raises(
        ConfigError, match=f"--model {name} needs images of at least {smallest} pixels, not {smallest - 1}"
    ):
        build(name, image_size=smallest - 1)


def test_the_signal_reaches_the_end_of_vgg11() -> None:
    """Oracle: He et al. (2015): of images of variance 1, pre-activations have a variance near 1 in the last hidden layer
    too (within a factor of a hundred: pools change it); with PyTorch's first weights it is below a millionth of that."""
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = build("vgg11")
    last_hidden = model[:-2]

    def variance() -> float:
        with torch.no_grad():
            return float(last_hidden(images).var(0).mean())

    ours = variance()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in model:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
    assert 0.01 < ours < 100
    assert variance() < 1e-6 * ours


@pytest.mark.parametrize("name", _SHAPES)
def test_smaller_models(name: str) -> None:
    """Oracle: of every hidden layer about 40 % of the channels go, of the classes none, and what is left computes."""
    _, channels, size = _SHAPES[name]
    model, example = build(name), torch.randn(2, channels, size, size)
    small = shrink(model, 0.4, example).model
    for whole, part in zip(model, small, strict=True):
        if isinstance(whole, (nn.Conv2d, nn.Linear)):
            kept = part.weight.shape[0] / whole.weight.shape[0]
            assert kept == 1 if whole is model[-1] else 0.55 < kept < 0.65
    assert small(example).shape == model(example).shape
