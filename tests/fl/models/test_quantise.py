"""Quantisation. Oracles: integers by hand, torch's fake-quantise formulas in NumPy, integer matrix products in NumPy."""

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from fl.common.errors import ConfigError
from fl.models.quantise import (
    QuantisedConv2d,
    QuantisedLinear,
    dequantise,
    fake_quantise,
    quantise,
    round_inputs,
    round_weights,
    weight_names,
)
from tests.compression.cases import EXAMPLES
from tests.support import rows, run_here, run_on_ranks

pytestmark = pytest.mark.slow

BITS = st.integers(4, 8)
SEEDS = st.integers(0, 2**16)
SCALES = st.sampled_from([1e-30, 1e-3, 1.0, 1e20])


def numbers(seed: int, *shape: int) -> Tensor:
    """Normal numbers, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    return x * (torch.rand(shape, generator=generator) > 0.2)


def numpy_weights(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales: rint(w / s), with s the largest magnitude of the channel over the largest integer."""
    most = 2 ** (bits - 1) - 1
    scales = np.abs(weight).reshape(len(weight), -1).max(1) / np.float32(most)
    scales[scales == 0] = 1
    shaped = scales.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.rint(weight / shaped), -most, most).astype(np.int64), scales


def numpy_inputs(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.float32]:
    """Integers less their zero point, and the scale: (max - min) / (2^bits - 1), the range stretched to hold zero."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(2**bits - 1)) or np.float32(1)
    zero_point = -np.rint(low / scale)
    return np.clip(np.rint(x / scale), -zero_point, 2**bits - 1 - zero_point).astype(np.int64), scale


def test_by_hand() -> None:
    """Four bits: weights whose largest is 7 have scale 1; inputs from -1 to 14 have scale 1; zero is always exact."""
    weight = torch.tensor([[7.0, -3.4, 2.6, 0.0], [0.0, 0.0, 0.0, 0.0], [-14.0, 3.2, 0.9, 0.0]])
    rounded = torch.tensor([[7.0, -3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-14.0, 4.0, 0.0, 0.0]])
    assert torch.equal(round_weights(weight, 4), rounded)
    assert torch.equal(
        round_inputs(torch.tensor([-1.0, 0.0, 2.4, 7.6, 14.0]), 4), torch.tensor([-1.0, 0.0, 2.0, 8.0, 14.0])
    )
    # All positive: the range begins at zero all the same.
    assert torch.equal(round_inputs(torch.tensor([5.3, 15.0]), 4), torch.tensor([5.0, 15.0]))
    assert torch.equal(round_inputs(torch.zeros(3), 8), torch.zeros(3))


@EXAMPLES
@given(seed=SEEDS, bits=BITS, size=SCALES)
def test_weights_are_the_formula(seed: int, bits: int, size: float) -> None:
    """Bit for bit, and `quantise` stores these integers; torch's operator agrees to within one step at a tie."""
    layer = nn.Conv2d(3, 4, 3, bias=False)
    layer.weight.data.copy_(numbers(seed, 4, 3, 3, 3) * size)
    weight = layer.weight.detach()
    integers, scales = numpy_weights(weight.numpy(), bits)
    expected = integers.astype(np.float32) * scales.reshape(-1, 1, 1, 1)
    assert np.array_equal(round_weights(weight, bits).numpy(), expected)
    stored = quantise(layer, bits)
    assert stored.integers["weight"].dtype == torch.int8
    assert np.array_equal(stored.integers["weight"].numpy(), integers)
    assert np.array_equal(stored.scales["weight"].numpy(), scales)
    assert np.array_equal(dequantise(stored)["weight"].numpy(), expected)
    most = 2 ** (bits - 1) - 1
    zeros = torch.zeros(4, dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(weight, torch.from_numpy(scales), zeros, 0, -most, most).numpy()
    exact = weight.numpy() / scales.reshape(-1, 1, 1, 1)
    tie = np.abs(np.abs(exact - np.floor(exact)) - 0.5) < 1e-4
    assert np.allclose(theirs[~tie], expected[~tie], rtol=1e-6, atol=0)


@EXAMPLES
@given(seed=SEEDS, bits=BITS, size=SCALES, shift=st.sampled_from([-3.0, 0.0, 0.5, 4.0]))
def test_inputs_are_the_formula(seed: int, bits: int, size: float, shift: float) -> None:
    """Bit for bit; no more than 2^bits different numbers; nothing is off by more than a step, zero not at all."""
    x = (numbers(seed, 5, 40) + shift) * size
    rounded = round_inputs(x, bits)
    integers, scale = numpy_inputs(x.numpy(), bits)
    assert np.array_equal(rounded.numpy(), integers.astype(np.float32) * scale)
    assert len(rounded.unique()) <= 2**bits
    assert float((rounded - x).abs().max()) <= float(scale) * (1 + 1e-4)
    assert bool((rounded[x == 0] == 0).all())


def test_a_layer_computes_with_integers() -> None:
    """Linear and Conv2d equal an exact product of integers, times both scales, plus the bias."""
    x = numbers(1, 6, 2, 5, 5)
    conv, linear = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Linear(5, 3)
    columns = torch.nn.functional.unfold(x, 3, padding=1, stride=2)
    for layer in (conv, linear):
        fake_quantise(layer, 8)
        weights, weight_scales = numpy_weights(layer.weight.detach().numpy(), 8)
        integers, scale = numpy_inputs(x.numpy(), 8)
        if layer is conv:
            padded = torch.nn.functional.unfold(torch.from_numpy(integers).double(), 3, padding=1, stride=2)
            assert padded.shape == columns.shape
            products = np.einsum("ok,bkp->bop", weights.reshape(4, -1), padded.numpy().astype(np.int64))
            products, per = products.reshape(6, 4, 3, 3), (1, -1, 1, 1)
        else:
            products, per = integers @ weights.T, (-1,)
        expected = products * (weight_scales.astype(np.float64) * scale).reshape(per)
        expected = expected + layer.bias.detach().numpy().reshape(per)
        np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_goes_straight_through() -> None:
    """Of rounding it is 1 everywhere; of a layer it is that of a layer with the rounded weights and inputs."""
    x, weight = numbers(2, 7, 5).requires_grad_(), numbers(3, 4, 5).requires_grad_()
    for tensor, function in ((x, round_inputs), (weight, round_weights)):
        upstream = torch.randn(tensor.shape)
        (gradient,) = torch.autograd.grad((function(tensor, 4) * upstream).sum(), tensor)
        assert torch.equal(gradient, upstream)
    layer = nn.Linear(5, 4)
    layer.weight.data.copy_(weight)
    fake_quantise(layer, 4)
    upstream = torch.randn(7, 4)
    grads = torch.autograd.grad((layer(x) * upstream).sum(), [x, layer.weight, layer.bias])
    torch.testing.assert_close(grads[0], upstream @ round_weights(weight, 4))
    torch.testing.assert_close(grads[1], upstream.T @ round_inputs(x, 4))
    torch.testing.assert_close(grads[2], upstream.sum(0))


def test_a_model_keeps_everything_but_its_forward() -> None:
    """Parameters are the same objects under the same names; copies round too; subclasses and norms are left alone."""

    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), Own(3, 3))
    model.append(nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2)))
    before, state = list(model.named_parameters()), list(model.state_dict())
    plain = copy.deepcopy(model)
    assert fake_quantise(model, 8) == ["0", "3", "5.1"]
    assert all(a[0] == b[0] and a[1] is b[1] for a, b in zip(before, model.named_parameters(), strict=True))
    assert list(model.state_dict()) == state
    assert isinstance(model[0], nn.Conv2d)
    assert type(model[4]) is Own
    assert weight_names(model) == weight_names(plain) == {"0.weight", "3.weight", "5.1.weight"}
    x = torch.randn(4, 1, 4, 4)
    assert torch.equal(copy.deepcopy(model).eval()(x), model.eval()(x))
    assert not torch.equal(plain.eval()(x), model(x))
    plain.load_state_dict(model.state_dict())
    assert fake_quantise(model, 4) == ["0", "3", "5.1"], "a second call changes the bits"
    assert isinstance(model[0], QuantisedConv2d)
    assert isinstance(model[3], QuantisedLinear)
    assert model[3].quantised_bits == 4


def test_fewer_bits_are_further_off() -> None:
    """Each bit less about doubles the error of a layer's outputs; 8 bits are within 2 % of fp32."""
    x, layer = torch.randn(64, 50), nn.Linear(50, 20)
    plain = layer(x).detach()
    errors = []
    for bits in (8, 7, 6, 5, 4):
        fake_quantise(layer, bits)
        errors.append(float((layer(x).detach() - plain).norm() / plain.norm()))
    assert errors[0] < 0.02
    assert all(1.6 < b / a < 2.6 for a, b in pairwise(errors))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_pruned_weights_stay_zero_in_training(dtype: torch.dtype | None) -> None:
    """Under autocast, in channels-last, with a whole channel pruned: gradients are finite, in the parameters' type and
    memory format, and a pruned weight counts as zero in the forward pass."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fake_quantise(model, 8)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[3].weight[:, ::2] = 0
    x = torch.randn(4, 3, 6, 6).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        out = model(x)
    assert out.dtype == (dtype or torch.float32)
    out.float().square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert bool(parameter.grad.isfinite().all())
    assert model[0].weight.grad.is_contiguous(memory_format=torch.channels_last)
    assert float(model[3].weight.grad[:, ::2].abs().max()) > 0, "the mask, not the rounding, keeps gradients away"
    assert not round_weights(model[0].weight, 8)[2].any()
    assert not round_weights(model[3].weight, 8)[:, ::2].any()


def test_a_16_bit_model() -> None:
    """What DeepSpeed's 16-bit modes train: everything in bf16."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2)).bfloat16()
    fake_quantise(model, 8)
    out = model(torch.randn(2, 1, 4, 4, dtype=torch.bfloat16))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert model[2].weight.grad.dtype == torch.bfloat16


def test_lstm_weights_are_rounded_after_training() -> None:
    """Rows of the gates have scales of their own; biases and embeddings stay; dequantising twice changes nothing."""
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "lstm": nn.LSTM(3, 4, 2), "fc": nn.Linear(4, 2)})
    stored = quantise(model, 8)
    assert set(stored.integers) == {
        *(f"lstm.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)),
        "fc.weight",
    }
    assert stored.scales["lstm.weight_hh_l1"].shape == (16,)
    assert stored.rest.keys() | stored.integers.keys() == model.state_dict().keys()
    state = dequantise(stored)
    for name, tensor in model.state_dict().items():
        if name in stored.scales:
            assert bool(((state[name] - tensor).abs() <= stored.scales[name][:, None] * 0.501).all())
        else:
            assert torch.equal(state[name], tensor)
    model.load_state_dict(state)
    again = quantise(model, 8)
    assert all(torch.equal(again.integers[name], stored.integers[name]) for name in stored.integers)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: fake_quantise(nn.Linear(2, 2), 3), "3 bits"),
        (lambda: fake_quantise(nn.Linear(2, 2), 9), "9 bits"),
        (lambda: quantise(nn.Linear(2, 2), 16), "16 bits"),
        (lambda: fake_quantise(nn.Sequential(nn.BatchNorm1d(2))), "Sequential has no"),
    ],
)
def test_what_cannot_be_is_refused(function, words) -> None:
    """In one sentence."""
    with pytest.raises(ConfigError, match=words):
        function()


@pytest.mark.parametrize("bits", [3, 9, -1])
def test_the_option_is_refused(tmp_path: Path, bits: int) -> None:
    """Before anything starts, by its name."""
    with pytest.raises(ConfigError, match=f"--qat {bits} must be"):
        run_here(tmp_path, "run", qat=bits)


_QUICK = {"rounds": 2, "local_steps": 2, "batch_size": 16, "limit_train": 200, "uplink": "topk:0.1", "clients": 2}


@pytest.mark.parametrize(
    "options", [{}, {"engine": "accelerate"}, {"precision": "bf16"}, {"mode": "step", "clients": 1}], ids=str
)
def test_a_run_trains_with_it(tmp_path: Path, options: dict) -> None:
    """Every engine and mode: other weights than without; a mask holds; the same again gives the same."""
    mask = {} if "mode" in options else {"prune": "magnitude:0.5"}
    finals = []
    for name, qat in (("plain", 0), ("rounded", 4), ("again", 4)):
        run_here(tmp_path, name, **{**_QUICK, **mask, **options}, qat=qat)
        finals.append(load_file(tmp_path / name / "final_model.safetensors"))
    plain, rounded, again = finals
    assert plain.keys() == rounded.keys()
    assert any(not torch.equal(plain[name], rounded[name]) for name in plain)
    assert all(torch.equal(again[name], rounded[name]) for name in rounded)
    assert rows(tmp_path / "again") == rows(tmp_path / "rounded")
    if mask:
        assert sum(int((tensor == 0).sum()) for tensor in rounded.values()) > 20_000


def test_any_number_of_ranks_gives_the_same(tmp_path: Path) -> None:
    """Ranges are those of a batch, and batches do not depend on the ranks: the same weights, bytes and accuracies."""
    options = {**_QUICK, "qat": 8, "prune": "magnitude:0.5", "uplink": "int8+zstd"}
    for ranks in (1, 2):
        run_on_ranks(ranks, tmp_path, {f"ranks{ranks}": options})
    one, two = (load_file(tmp_path / f"ranks{ranks}" / "final_model.safetensors") for ranks in (1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert rows(tmp_path / "ranks1") == rows(tmp_path / "ranks2")
