"""int8, int4 and qsgd. Oracles: the formulas as published, in NumPy; means over many keys."""

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from compression.draws import derive_key, uniform
from compression.values import INT4, INT8, Qsgd
from compression.values.uniform import Uniform
from tests.compression.cases import EXAMPLES
from tests.compression.values.examples import ANY, KEYS, QSGDS, TINIEST, block_by_block, there_and_back

MAX = float(np.finfo(np.float32).max)
both = pytest.mark.parametrize("form", [INT8, INT4], ids=str)
all_uniform = pytest.mark.parametrize("form", [INT8, INT4, *QSGDS], ids=str)


def scale(form: Uniform, block: np.ndarray) -> np.float32:
    """Largest magnitude or Euclidean norm."""
    if isinstance(form, Qsgd):
        return np.float32(min(np.sqrt(np.sum(block.astype(np.longdouble) ** 2)), MAX))
    return np.abs(block).max()


@all_uniform
@EXAMPLES
@given(x=ANY, key=KEYS)
def test_error_is_below_one_step(form: Uniform, x: Tensor, key: int) -> None:
    """A step: scale / levels. Where that is denormal, below the smallest number above zero; rounding of fp32 aside."""
    restored = there_and_back(form, x, key)
    for given_block, block in zip(
        block_by_block(x.numpy(), form.block), block_by_block(restored, form.block), strict=True
    ):
        largest = float(scale(form, given_block))
        error = np.abs(block - given_block.astype(np.float64))
        assert error.max() <= max(largest / form.levels * (1 + 1e-4), TINIEST)
        assert (block[given_block == 0] == 0).all()


@both
@EXAMPLES
@given(x=ANY, key=KEYS)
def test_extremes_are_exact(form: Uniform, x: Tensor, key: int) -> None:
    """The largest magnitude of each block, of either sign, denormals and the largest fp32 included."""
    restored = there_and_back(form, x, key)
    for given_block, block in zip(
        block_by_block(x.numpy(), form.block), block_by_block(restored, form.block), strict=True
    ):
        extreme = np.abs(given_block) == np.abs(given_block).max()
        assert (block[extreme] == given_block[extreme]).all()


@pytest.mark.slow
@all_uniform
def test_unbiased(form: Uniform) -> None:
    """The mean over 3,000 keys lies within five standard errors of the value, plus two roundings among all keys."""
    keys = 3000
    x = torch.cat((torch.linspace(-1, 1, 41), torch.tensor([0.3, -0.001, 1e-6, 0.77])))
    step = float(scale(form, x.numpy())) / form.levels
    mean = np.mean([there_and_back(form, x, derive_key(1, key)) for key in range(keys)], axis=0)
    part = np.abs(x.double().numpy()) / step % 1
    allowed = 5 * step * np.sqrt(part * (1 - part) / keys) + 2 * step / keys
    assert (np.abs(mean - x.double().numpy()) <= allowed).all()


@both
@EXAMPLES
@given(x=ANY, key=KEYS)
def test_formula(form: Uniform, x: Tensor, key: int) -> None:
    """levels + floor(y) + (u < y - floor(y)), y = v / scale * levels, value by value in fp32."""
    side, codes = form.quantise(x, key)
    u = uniform(key, x.numel(), "cpu").numpy()
    expected, scales = [], []
    for i, block in enumerate(block_by_block(x.numpy(), form.block)):
        scales.append(scale(form, block))
        y = block / (scales[-1] or np.float32(1)) * np.float32(form.levels)
        up = u[i * form.block :][: block.size] < y - np.floor(y)
        expected.extend((form.levels + np.floor(y) + up).astype(int).tolist())
    assert codes.tolist() == expected
    assert side.numpy().tobytes() == np.array(scales, "<f4").tobytes()


@pytest.mark.parametrize("form", QSGDS, ids=str)
@EXAMPLES
@given(x=ANY, key=KEYS)
def test_qsgd_as_published(form: Qsgd, x: Tensor, key: int) -> None:
    """Section 3.1: l = floor(|v| / ||v|| * s), then l + 1 with probability |v| / ||v|| * s - l, and the sign of v.

    A negative value takes the upper end of the unit interval for its chance, which leaves the probability as it is.
    """
    s, u = form.levels, uniform(key, x.numel(), "cpu").numpy()
    restored = there_and_back(form, x, key)
    for i, (v, out) in enumerate(
        zip(block_by_block(x.numpy(), form.block), block_by_block(restored, form.block), strict=True)
    ):
        norm = scale(form, v)
        ratio = np.abs(v) / (norm or np.float32(1)) * np.float32(s)
        level = np.floor(ratio)
        chance = u[i * form.block :][: v.size]
        rest = ratio - level
        up = np.where(v < 0, (chance >= np.float32(1) - rest) & (rest > 0), chance < rest)
        xi = (level + up).astype(np.float32) / np.float32(s)
        assert (out == np.sign(v) * xi * norm).all()


def test_qsgd_sparsity() -> None:
    """Theorem 3.2: with one level the expected number of nonzeros is at most s * (s + sqrt(m)), s = 1."""
    x = torch.randn(512 * 50, generator=torch.Generator().manual_seed(0))
    restored = there_and_back(Qsgd.of(1), x, 1)
    assert 0 < np.count_nonzero(restored) <= 50 * (1 + 512**0.5)
