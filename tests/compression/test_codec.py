"""Codecs. Oracles: what `encode` says a receiver will see, bit for bit; selection and rounding written out in NumPy; the
length that the header and the formats' sizes predict."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import Layout, NonFiniteError, PayloadError, make_codec
from compression.index import choose, index_bytes
from compression.values import ValueFormat, value_bytes
from compression.wire import HEADER_BYTES, Kind, dense_bytes, read_header
from tests.compression.cases import EXAMPLES, SPECS, bits, largest, layers, vectors

every_spec = pytest.mark.parametrize("spec", SPECS)


def selected(spec: str, x: np.ndarray, layout: Layout) -> np.ndarray | None:
    """Positions by the definitions in `compression/select.py`; None for all. For n up to 32,768."""
    name, _, rest = spec.split("+")[0].partition(":")
    if not rest:
        return None
    number = float(rest.split(",")[0])
    if name == "threshold":
        return np.flatnonzero(np.abs(x) >= np.float32(number))
    found = [np.empty(0, dtype=np.int64)]
    bounds = [*layout.offsets] if "layer" in rest else [0, x.size]
    for start, stop in itertools.pairwise(bounds):
        part, n = x[start:stop], stop - start
        if not n:
            continue
        if name == "topk":
            chosen = largest(part, min(n, max(1, round(number * n))))
        else:
            bound = np.sort(np.abs(part))[::-1][max(1, round((1 - number) * n)) - 1]
            chosen = np.flatnonzero((np.abs(part) >= bound) & (part != 0))
        found.append(chosen + start)
    return np.concatenate(found)


def rounded(spec: str, values: np.ndarray) -> np.ndarray:
    """To the nearest number of the value format; what is out of reach becomes its largest."""
    if spec.endswith("fp16"):
        return np.clip(values, -65504, 65504).astype(np.float16).astype(np.float32)
    if spec.endswith("bf16"):
        tensor = torch.from_numpy(values)
        limit = torch.finfo(torch.bfloat16).max
        return tensor.clamp(-limit, limit).bfloat16().float().numpy()
    return values


@every_spec
@EXAMPLES
@given(x=vectors())
def test_promises(spec: str, x: Tensor) -> None:
    """The vector that arrives, the vector that `encode` says arrives, and the definition are the same bits."""
    n, layout, before = x.numel(), layers(x.numel()), bits(x)
    codec = make_codec(spec)
    payload, decoded = codec.encode(x, layout)
    received = codec.decode(payload, n)

    positions = selected(spec, x.numpy(), layout)
    expected = np.zeros(n, dtype=np.float32)
    at = np.arange(n) if positions is None else positions
    expected[at] = rounded(spec, x.numpy()[at])
    assert bits(decoded.dense()) == expected.tobytes()
    assert bits(received.dense()) == expected.tobytes()
    assert decoded.n == received.n == n
    assert decoded.kept == at.size
    assert bits(x) == before

    value, k = codec.value, at.size
    index = read_header(payload).index
    if positions is None:
        assert payload.numel() == HEADER_BYTES + n * value_bytes(value)
    else:
        assert index == choose(n, k, value_bytes(value))
        sent = n if received.indices is None else k
        assert payload.numel() == HEADER_BYTES + index_bytes(index, n, k) + sent * value_bytes(value)
    assert payload.dtype == torch.uint8
    assert payload.numel() <= dense_bytes(n)


@every_spec
@EXAMPLES
@given(x=vectors(), data=st.data())
def test_nan_and_infinity_are_refused(spec: str, x: Tensor, data: st.DataObject) -> None:
    """Wherever they stand, two infinities of opposite sign among them; nothing is changed."""
    if not x.numel():
        return
    x = x.clone()
    for bad in data.draw(
        st.lists(st.sampled_from([float("nan"), float("inf"), -float("inf")]), min_size=1, max_size=2)
    ):
        x[data.draw(st.integers(0, x.numel() - 1))] = bad
    before = bits(x)
    with pytest.raises(NonFiniteError):
        make_codec(spec).encode(x, layers(x.numel()))
    assert bits(x) == before


@every_spec
def test_finite_values_whose_sum_overflows_are_accepted(spec: str) -> None:
    """The quick check by the sum alone would refuse them."""
    x = torch.full((40,), 3.4e38)
    codec = make_codec(spec)
    payload, decoded = codec.encode(x, layers(40))
    assert bool(torch.isfinite(codec.decode(payload, 40).values).all())
    assert decoded.kept > 0


@every_spec
@EXAMPLES
@given(vectors_=st.lists(st.integers(0, 10**6), min_size=5, max_size=5), n=st.sampled_from([1, 2, 17, 64, 100]))
def test_error_feedback_conserves_over_five_rounds(spec: str, vectors_: list[int], n: int) -> None:
    """decoded + new residual == update + old residual, bit for bit where values are exact; where they are rounded the
    residual is total - decoded. The old residual is only read."""
    codec, layout, residual = make_codec(spec), layers(n), None
    for seed in vectors_:
        generator = torch.Generator().manual_seed(seed)
        update = torch.randn(n, generator=generator) * 10.0 ** torch.randint(-30, 6, (n,), generator=generator)
        old = torch.zeros(n) if residual is None else residual.clone()
        total = update + old
        payload, decoded, new = codec.encode_with_residual(update.clone(), residual, layout)
        if residual is not None:
            assert bits(residual) == bits(old)
            assert new.data_ptr() != residual.data_ptr()
        dense = codec.decode(payload, n).dense()
        assert torch.equal(dense, decoded.dense())
        assert torch.equal(new, total - dense)
        if codec.value is ValueFormat.FP32:
            assert torch.equal(dense + new, total)
            if decoded.indices is not None:
                assert not new[decoded.indices].any()
        residual = new


@every_spec
@EXAMPLES
@given(x=vectors())
def test_error_feedback_on_awkward_values(spec: str, x: Tensor) -> None:
    """Denormals, saturation, ties: the residual is total - decoded, finite, and nothing is lost where values are exact."""
    codec, layout = make_codec(spec), layers(x.numel())
    _, decoded, new = codec.encode_with_residual(x.clone(), torch.zeros_like(x), layout)
    assert torch.equal(new, x - decoded.dense())
    assert bool(torch.isfinite(new).all())


def test_an_overflowing_total_leaves_the_residual_as_it_was() -> None:
    """update + residual is infinite: refused, and the residual is unchanged."""
    residual = torch.full((3,), 3e38)
    with pytest.raises(NonFiniteError):
        make_codec("topk:0.5").encode_with_residual(torch.full((3,), 3e38), residual)
    assert bits(residual) == bits(torch.full((3,), 3e38))


def test_a_lossless_codec_has_no_residual() -> None:
    """An old one (of a codec used before) is sent whole."""
    payload, decoded, new = make_codec("none").encode_with_residual(torch.ones(4), torch.full((4,), 2.0))
    assert decoded.dense().tolist() == [3.0] * 4
    assert not new.any()
    assert payload.numel() == dense_bytes(4)


def test_long_vectors() -> None:
    """300,000 coordinates: beyond the sample and one chunk; same promises."""
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(0)).pow(3)
    for spec in ("topk:0.001+bf16", "topk:0.02", "topk:0.9", "threshold:1", "threshold:5+fp16"):
        codec = make_codec(spec)
        payload, decoded = codec.encode(x)
        positions = (
            selected(spec, x.numpy(), layers(0))
            if "topk" not in spec
            else largest(x.numpy(), round(float(spec.split("+")[0][5:]) * x.numel()))
        )
        expected = np.zeros(x.numel(), dtype=np.float32)
        expected[positions] = rounded(spec, x.numpy()[positions])
        assert bits(codec.decode(payload, x.numel()).dense()) == expected.tobytes() == bits(decoded.dense())


def test_strided_and_single_values() -> None:
    """A view with a step, and one value expanded: the same payload as a copy."""
    x = torch.randn(60, generator=torch.Generator().manual_seed(0))
    for spec in SPECS:
        for view in (x[::3], torch.tensor(2.0).expand(1), torch.tensor(2.0).expand(9), x.view(6, 10).t()[0]):
            layout = layers(view.numel())
            payload, decoded = make_codec(spec).encode(view, layout)
            expected, _ = make_codec(spec).encode(view.clone(memory_format=torch.contiguous_format), layout)
            assert torch.equal(payload, expected)
            assert torch.equal(decoded.dense(), make_codec(spec).decode(payload, view.numel()).dense())


def test_kind_and_length_must_be_the_expected() -> None:
    """Buffers are no update, and 3 coordinates are not 4."""
    codec = make_codec("none")
    payload, _ = codec.encode(torch.ones(3), kind=Kind.BUFFERS)
    assert codec.decode(payload, 3, Kind.BUFFERS).values.tolist() == [1, 1, 1]
    for n, kind in ((3, Kind.UPDATE), (4, Kind.BUFFERS)):
        with pytest.raises(PayloadError):
            codec.decode(payload, n, kind)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_spec
def test_a_gpu_makes_the_same_bytes(spec: str) -> None:
    """Oracle: the CPU."""
    for n in (0, 1, 9, 1000, 300_000):
        x = torch.randn(n, generator=torch.Generator().manual_seed(n))
        codec = make_codec(spec)
        expected, _, residual = codec.encode_with_residual(x.clone(), None, layers(n))
        payload, decoded, other = codec.encode_with_residual(x.cuda(), None, layers(n))
        assert payload.is_cuda
        assert torch.equal(payload.cpu(), expected)
        assert torch.equal(other.cpu(), residual)
        assert torch.equal(codec.decode(payload, n).dense(), decoded.dense())
