"""Oracles: parameter counts worked out from the published shapes, and the definition of what a seed decides."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from fl.common.config import ModelOptions
from fl.common.errors import ConfigError
from fl.common.torchvision_shim import import_torchvision
from fl.models import build_model, check_model
from fl.models.resnet import group_norm


def build(name="lenet5", *, classes=10, in_channels=1, image_size=28, seed=0, **options):
    return build_model(
        ModelOptions(model=name, **options),
        classes=classes,
        in_channels=in_channels,
        image_size=image_size,
        seed=seed,
    )


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def linear(classes, in_channels):
    """A model function as a user would write it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 16, classes)).double()


def no_model(classes, in_channels):
    """Not a model function."""
    return classes


@pytest.mark.parametrize(
    ("name", "options", "in_channels", "image_size", "count"),
    [
        ("lenet5", {}, 1, 28, 44_426),
        ("simple_cnn", {}, 1, 28, 824_458),
        ("pfl_cnn", {}, 3, 32, 1_626_442),
        ("conv2", {}, 1, 28, 6_603_710 - 52 * 2049),
        ("vgg11", {}, 3, 32, 9_750_922),
        ("emotion_cnn", {}, 1, 48, 2_345_607 + 3 * 1025),
        ("resnet18", {}, 3, 32, 11_173_962),
        ("resnet18", {"norm": "group"}, 3, 32, 11_173_962),
        ("resnet18", {"stem": "imagenet"}, 3, 32, 11_173_962 + 64 * 3 * (49 - 9)),
        ("resnet18", {}, 1, 28, 11_173_962 - 64 * 2 * 9),
        ("resnet18", {"stem": "imagenet"}, 1, 28, 11_173_962 + 64 * (49 - 27)),
        ("resnet50", {}, 3, 32, 23_520_842),
        ("resnet12", {}, 1, 28, 17_443_530),
        ("resnet12", {}, 3, 32, 17_444_682),
    ],
)
def test_parameter_counts(name, options, in_channels, image_size, count):
    """Oracle: the published counts; a stem changes only its own kernel; GroupNorm has as many as BatchNorm."""
    model = build(name, in_channels=in_channels, image_size=image_size, **options)
    assert parameters(model) == count
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_conv2_for_62_classes():
    """Oracle: PruneFL's own count, on FEMNIST."""
    assert parameters(build("conv2", classes=62)) == 6_603_710


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5", "simple_cnn", "pfl_cnn", "conv2", "resnet18", "resnet12"])
@pytest.mark.parametrize(("in_channels", "image_size"), [(1, 28), (3, 32), (1, 17)])
def test_any_image_shape(name, in_channels, image_size):
    """Oracle: the shape of the result, and a finite gradient everywhere."""
    model = build(name, classes=7, in_channels=in_channels, image_size=image_size)
    result = model(torch.rand(2, in_channels, image_size, image_size))
    assert result.shape == (2, 7)
    result.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["lenet5", "simple_cnn", "pfl_cnn", "conv2"])
def test_images_too_small(name):
    """Oracle: one sentence that names the model and the size."""
    with pytest.raises(ConfigError, match=f"--model {name} needs images of at least .* not 3"):
        build(name, image_size=3)


def test_cifar_stem_keeps_the_resolution():
    """Oracle: He et al. 2016: 32x32 at the first stage; 8x8 with the ImageNet stem."""
    image = torch.rand(1, 3, 32, 32)
    for stem, side in (("cifar", 32), ("imagenet", 8)):
        model = build("resnet18", in_channels=3, image_size=32, stem=stem)
        assert model.maxpool(model.relu(model.bn1(model.conv1(image)))).shape[-1] == side


def test_group_norm_has_no_running_statistics():
    """Oracle: no buffers at all; 32 groups, or what divides."""
    assert not list(build("resnet18", in_channels=3, norm="group").buffers())
    assert [group_norm(channels).num_groups for channels in (64, 32, 16, 48, 7)] == [32, 32, 16, 16, 1]


def test_the_stem_is_initialised_like_the_rest():
    """Oracle: Kaiming, fan-out: standard deviation sqrt(2 / (64 * k * k)) within 10 %."""
    for stem, kernel in (("cifar", 3), ("imagenet", 7)):
        std = float(build("resnet18", in_channels=1, stem=stem).conv1.weight.detach().std())
        assert std == pytest.approx((2 / (64 * kernel * kernel)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_weights_are_a_function_of_the_seed(name):
    """Oracle: the same seed after other random draws gives the same bits, another seed others; global state stays."""
    first = build(name, seed=3).state_dict()
    torch.rand(5)
    state = torch.get_rng_state()
    again, other = build(name, seed=3).state_dict(), build(name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_init_file(tmp_path):
    """Oracle: the file's own tensors, whatever the seed; BatchNorm's counter included, half precision widened."""
    source = build("resnet18", in_channels=3, seed=1)
    source.bn1.num_batches_tracked += 5
    tensors = {key: t.half() if t.is_floating_point() else t for key, t in source.state_dict().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    model = build("resnet18", in_channels=3, seed=2, init=str(tmp_path / "w.safetensors"))
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[key].to(tensor.dtype))
    assert model.conv1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("0.bias"), r"'0\.bias' is missing from it"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "'extra' is not in the model"),
        (lambda t: t.update({"3.bias": torch.zeros(2)}), r"'3\.bias' has shape \[2\], the model's \[16\]"),
        *(
            (lambda t, kind=kind: t.update({"3.bias": torch.zeros(16).to(kind)}), f"'3.bias' holds {kind}, the model's")
            for kind in (torch.complex64, torch.bool, torch.int64, torch.uint8)
        ),
        *(
            (
                lambda t, x=x: t.update({"3.bias": torch.full((16,), x).double()}),
                "'3.bias' holds NaN, infinity, or numbers",
            )
            for x in (math.nan, -math.inf)
        ),
        (lambda t: t.update({"3.bias": torch.full((16,), 1e300, dtype=torch.float64)}), "numbers beyond torch.float32"),
    ],
)
def test_init_file_that_does_not_fit(tmp_path, change, says):
    """Oracle: the message names the first tensor and what is wrong."""
    tensors = dict(build().state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=says):
        build(init=str(tmp_path / "w.safetensors"))


def test_init_file_whose_name_is_no_utf8(tmp_path):
    """Oracle: the tensors written, under a name with a byte of Latin-1."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.safetensors")
    tensors = dict(build().state_dict())
    Path(path).write_bytes(save(tensors))
    check_model(ModelOptions(init=path))
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in build(seed=9, init=path).state_dict().items())


def test_init_file_absent_or_foreign(tmp_path):
    """Oracle: refused by the check, before any model is built."""
    with pytest.raises(ConfigError, match="does not exist"):
        check_model(ModelOptions(init=str(tmp_path / "none")))
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        check_model(ModelOptions(init=str(tmp_path / "text")))


def test_users_own_function(monkeypatch):
    """Oracle: called with (classes, in_channels), made fp32, seeded like the others."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model, again = (build("test_models:linear", classes=5, in_channels=3, seed=1) for _ in range(2))
    assert model[1].weight.shape == (5, 48)
    assert model[1].weight.dtype == torch.float32
    assert torch.equal(model[1].weight, again[1].weight)
    with pytest.raises(ConfigError, match=r"must return a torch\.nn\.Module, not int"):
        build("test_models:no_model")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "resnet81"}, "did you mean 'resnet18'"),
        ({"model": "no_such_package:f"}, "there is no module 'no_such_package'"),
        (
            {"model": "os.path:abspath"},
            r"called as abspath\(classes, in_channels\), which abspath\(path\) does not take$",
        ),
    ],
)
def test_refused_before_anything_starts(options, says):
    """Oracle: one sentence each."""
    with pytest.raises(ConfigError, match=says):
        check_model(ModelOptions(**options))


def test_torchvision_can_be_imported_again():
    """Oracle: the second import is the same module, and what is needed of it is there."""
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision
    assert hasattr(torchvision, "models")
    assert hasattr(torchvision, "datasets")


@pytest.mark.slow
def test_importing_does_nothing():
    """Oracle: a fresh interpreter, in which torchvision stays unloaded and the global random state as it was."""
    code = (
        "import sys, torch; before = torch.get_rng_state(); import fl.data, fl.models, fl.data.batches;"
        "assert 'torchvision' not in sys.modules; assert torch.equal(before, torch.get_rng_state())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parents[3])
