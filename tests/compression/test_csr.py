"""Compressed sparse rows. Oracle: `scipy.sparse.csr_matrix` and `numpy.savez` as the report uses them."""

import io
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given
from scipy.sparse import csr_matrix
from torch import Tensor

from compression import Layout, NonFiniteError
from compression.csr import csr_bytes, decode_csr, encode_csr
from fl.common.config import ModelOptions
from fl.models import build_model
from tests.compression.cases import EXAMPLES, bits, layers, vectors

SHAPES = ((4, 2, 3, 3), (4,), (), (5, 7), (0, 3), (2, 3, 1), (0,), (1, 1))
LAYOUT = Layout(tuple("abcdefgh"), SHAPES)


def sparse_vector(density: float, seed: int = 0, layout: Layout = LAYOUT) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(layout.total, generator=generator)
    return values * (torch.rand(layout.total, generator=generator) < density)


def as_matrix(tensor: Tensor) -> csr_matrix:
    return csr_matrix(tensor.numpy().reshape(prod(tensor.shape[:-1]), tensor.shape[-1]))


def report_bytes(tensors: list[Tensor]) -> int:
    """What the report counts: the length of each tensor's file as NumPy writes it."""
    total = 0
    for tensor in tensors:
        file = io.BytesIO()
        if tensor.dim() > 1:
            m = as_matrix(tensor)
            np.savez(
                file, data=m.data, indices=m.indices, indptr=m.indptr, shape=m.shape, original_shape=tuple(tensor.shape)
            )
        else:
            np.save(file, tensor.numpy())
        total += len(file.getvalue())
    return total


def widened(tensors: list[Tensor]) -> list[Tensor]:
    """Scalars take eight bytes."""
    return [tensor if tensor.dim() else tensor.double() for tensor in tensors]


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_arrays_are_scipys(density: float) -> None:
    """Each file is read by `numpy.load`; its arrays, their types included, are SciPy's."""
    x = sparse_vector(density)
    payload, position = encode_csr(LAYOUT, x).numpy().tobytes(), 0
    for tensor in LAYOUT.views(x):
        size = csr_bytes([tensor])
        read = np.load(io.BytesIO(payload[position : position + size]), allow_pickle=False)
        position += size
        if tensor.dim() > 1:
            matrix = as_matrix(tensor)
            assert sorted(read.files) == ["data", "indices", "indptr", "original_shape", "shape"]
            for name in ("data", "indices", "indptr"):
                assert np.array_equal(read[name], getattr(matrix, name))
                assert read[name].dtype == getattr(matrix, name).dtype
            assert tuple(read["shape"]) == matrix.shape
            assert tuple(read["original_shape"]) == tuple(tensor.shape)
        else:
            assert read.shape == tuple(tensor.shape)
            assert np.array_equal(read, tensor.numpy())
    assert position == len(payload) == report_bytes(widened(LAYOUT.views(x)))


@EXAMPLES
@given(x=vectors())
def test_round_trip(x: Tensor) -> None:
    """The same bits, but for -0.0 in a matrix; the size by the formula and by NumPy; encoding again: the same bytes."""
    layout = layers(x.numel())
    before = bits(x)
    payload = encode_csr(layout, x)
    assert bits(x) == before
    views = layout.views(x)
    assert payload.dtype == torch.uint8
    assert payload.numel() == csr_bytes(views) == report_bytes(widened(views))
    decoded = decode_csr(payload, layout)
    for found, sent in zip(layout.views(decoded), views, strict=True):
        assert bits(found) == bits(sent + 0.0 if sent.dim() > 1 else sent)
    assert torch.equal(encode_csr(layout, decoded), payload)


def test_the_reports_figure() -> None:
    """Oracle: the report's own way of counting, and the sum from the network's shapes: 163,296,402 bytes for the whole
    unpruned state and 8 less for each weight pruned; the payload is as long as that. Trainable parameters alone are
    less by BatchNorm's 56 running statistics (53,760 bytes of values) and 28 counters."""
    model = build_model(ModelOptions(model="resnet12"), classes=10, in_channels=1, image_size=28, seed=0)
    state = model.state_dict()
    weights = [tensor for tensor in state.values() if tensor.dim() > 1]
    for weight in weights:
        weight[weight == 0] = 1e-9  # about one of 17 million first weights is zero
    nnz, rows = 17_430_080, 5_923_018
    assert (len(weights), sum(w.numel() for w in weights)) == (29, nnz)
    assert sum(w.numel() // w.shape[-1] for w in weights) == rows
    assert csr_bytes(state.values()) == 8 * nnz + 4 * (rows + 29) + 37_742 + 125_832 == 163_296_402
    assert report_bytes(list(state.values())) == 163_296_402

    layout = Layout.of(state.items())
    flat = torch.cat([tensor.reshape(-1).float() for tensor in state.values()])
    payload = encode_csr(layout, flat)
    assert payload.numel() == 163_296_402
    assert torch.equal(decode_csr(payload, layout), flat)

    pruned = 0
    for weight in weights:
        weight.view(-1)[: weight.numel() * 4 // 5] = 0
        pruned += weight.numel() * 4 // 5
    assert csr_bytes(state.values()) == 163_296_402 - 8 * pruned
    assert csr_bytes(model.parameters()) == csr_bytes(state.values()) - 56 * 128 - 53_760 - 28 * 136


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(value: float) -> None:
    """Refused in every tensor, before anything is written."""
    for offset, size in zip(LAYOUT.offsets, LAYOUT.sizes, strict=False):
        if size:
            x = sparse_vector(0.5)
            x[offset] = value
            with pytest.raises(NonFiniteError):
                encode_csr(LAYOUT, x)


def test_no_tensors() -> None:
    """Nothing takes no bytes."""
    nothing = Layout((), ())
    assert encode_csr(nothing, torch.empty(0)).numel() == csr_bytes([]) == 0
    assert decode_csr(torch.empty(0, dtype=torch.uint8), nothing).numel() == 0
