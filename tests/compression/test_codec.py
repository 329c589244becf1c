"""Codecs. Oracles: what `encode` says a receiver will see, bit for bit; selection and rounding written out in NumPy
(`definitions.py`); the lengths that the header and the formats' sizes predict."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import Codec, Layout, NonFiniteError, PayloadError, Sparse, make_codec
from compression.codec import BUFFERS, LowRankCodec, SparseCodec
from compression.index import IndexFormat, decode_index, encode_index
from compression.values import FP32, Qsgd
from compression.wire import HEADER_BYTES, dense_bytes, read_header
from tests.compression.cases import EXAMPLES, FEW, FORMATS, KEYS, PLAIN, SPECS, bits, encodable, layers, vectors
from tests.compression.definitions import promised

every_spec = pytest.mark.parametrize("spec", SPECS)


@pytest.mark.parametrize("spec", ["none", *PLAIN])
@FEW
@given(x=vectors(), key=KEYS)
def test_promises(spec: str, x: Tensor, key: int) -> None:
    """The vector that arrives, the vector that `encode` says arrives, and the definition are the same bits, with and
    without the entropy stage, which never makes a payload longer. The update is only read."""
    x = encodable(spec, x)
    n, layout, before = x.numel(), layers(x.numel()), bits(x)
    expected, positions = promised(spec, x, layout, key)
    lengths = []
    for text in (spec, f"{spec}+zstd") if spec in PLAIN else (spec,):
        codec = make_codec(text)
        payload, decoded = codec.encode(x, layout, key=key)
        received = codec.decode(payload, n, layout)
        assert bits(decoded.dense()) == expected.tobytes()
        assert bits(received.dense()) == expected.tobytes()
        assert decoded.n == received.n == n
        assert decoded.kept == (n if positions is None else positions.size)
        assert payload.dtype == torch.uint8
        assert bits(x) == before
        check_sections(codec, payload, decoded, layout)
        lengths.append(payload.numel())
    assert lengths[-1] <= lengths[0]


def check_sections(codec: Codec, payload: Tensor, decoded: Sparse, layout: Layout) -> None:
    """The header tells what the codec is, and its sections add up to the payload."""
    if isinstance(codec, LowRankCodec):
        decoded = Sparse(codec.body.count(layout), None, torch.empty(0))
        codec, kept = codec.factors, decoded.n
    elif isinstance(codec, SparseCodec):
        kept = decoded.kept
    else:
        return
    header, value = read_header(payload), codec.value
    assert (header.kind, header.value, header.n) == (codec.kind, value, decoded.n)
    assert payload.numel() == HEADER_BYTES + header.index_bytes + header.value_bytes == header.payload_bytes
    plain = value.side_bytes(header.k) + -(-header.k * value.width // 8)
    assert header.value_bytes < plain if header.entropy else header.value_bytes == plain
    assert codec.coded or not header.entropy
    if header.index is IndexFormat.DENSE:
        assert header.k == header.n
        assert header.index_bytes == 0
    else:
        assert header.k == kept
        assert decoded.indices is not None
        positions = payload[HEADER_BYTES : HEADER_BYTES + header.index_bytes]
        assert torch.equal(decode_index(header.index, positions, header.n, header.k), decoded.indices)
    if codec.selector is not None and not codec.selector.seeded and not header.entropy:
        assert decoded.indices is not None
        forms = [form for form in IndexFormat if form not in (IndexFormat.DENSE, IndexFormat.SEEDED)]
        smallest = min(
            encode_index(form, decoded.indices, header.n).numel()
            for form in forms
            if codec.coded or form is not IndexFormat.GAPS
        )
        best = smallest + value.side_bytes(kept) + -(-kept * value.width // 8)
        if not value.side_bytes(kept):
            best = min(best, -(-header.n * value.width // 8))
        assert header.index_bytes + header.value_bytes <= best + 1  # chosen by whole bits
        if not value.side_bytes(1):
            assert payload.numel() <= dense_bytes(header.n)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["none", *PLAIN])
@FEW
@given(x=vectors(), data=st.data())
def test_nan_and_infinity_are_refused(spec: str, x: Tensor, data: st.DataObject) -> None:
    """Wherever they stand, two infinities of opposite sign among them, with and without the entropy stage; nothing
    is changed."""
    if not x.numel():
        return
    x = x.clone()
    for bad in data.draw(
        st.lists(st.sampled_from([float("nan"), float("inf"), -float("inf")]), min_size=1, max_size=2)
    ):
        x[data.draw(st.integers(0, x.numel() - 1))] = bad
    before = bits(x)
    text = f"{spec}+zstd" if spec in PLAIN and data.draw(st.booleans()) else spec
    with pytest.raises(NonFiniteError):
        make_codec(text).encode(x, layers(x.numel()))
    assert bits(x) == before


@every_spec
def test_finite_values_whose_sum_overflows(spec: str) -> None:
    """The quick check by the sum alone would refuse them; low rank has to, since their products overflow too."""
    x = torch.full((40,), 3.4e38)
    codec = make_codec(spec)
    if isinstance(codec, LowRankCodec):
        with pytest.raises(NonFiniteError, match="too large"):
            codec.encode(x, layers(40))
        return
    payload, decoded = codec.encode(x, layers(40))
    assert bool(torch.isfinite(codec.decode(payload, 40, layers(40)).values).all())
    assert decoded.kept > 0 or spec.startswith("prune:1")


@pytest.mark.parametrize("form", FORMATS)
def test_low_rank_in_a_coarse_format_is_refused_by_the_sender(form: str) -> None:
    """A block that holds factors of both sides may make all of them large; then it is not the receiver who finds out."""
    layout, codec = Layout(("m",), ((20, 30),)), make_codec(f"powersgd:1+{form}")
    for scale in (1.0, 1e10, 1e20, 1e30):
        x = torch.randn(600, generator=torch.Generator().manual_seed(0)) * scale
        try:
            payload, decoded = codec.encode(x, layout)
        except NonFiniteError:
            assert scale > 1e10
        else:
            assert bits(codec.decode(payload, 600, layout).values) == bits(decoded.values)


@every_spec
def test_keys(spec: str) -> None:
    """The same key gives the same payload; another one gives another payload exactly where something is random."""
    x, layout = torch.randn(300, generator=torch.Generator().manual_seed(0)), layers(300)
    codec = make_codec(spec)
    first, _ = codec.encode(x, layout, key=1)
    assert torch.equal(first, codec.encode(x, layout, key=1)[0])
    random = any(word in spec for word in ("randk", "int8", "int4", "qsgd", "powersgd"))
    assert torch.equal(first, codec.encode(x, layout, key=2)[0]) != random


@pytest.mark.slow
@pytest.mark.parametrize("form", ["int8", "int4", "qsgd:3"])
def test_random_positions_and_rounding_are_independent(form: str) -> None:
    """Each coordinate, over the keys that select it, is right on average: within five standard errors."""
    n, keys = 100, 3000
    x = torch.linspace(0.5, 1, n)
    codec, sums, counts = make_codec(f"randk:0.1+{form}"), torch.zeros(n), torch.zeros(n)
    for key in range(keys):
        _, decoded = codec.encode(x, key=key)
        sums[decoded.indices] += decoded.values
        counts[decoded.indices] += 1
    step = 10**0.5 / 3 if form == "qsgd:3" else 1 / (127 if form == "int8" else 7)
    assert bool(((sums / counts - x).abs() <= 5 * step / 2 / counts.sqrt()).all())


def test_long_vectors() -> None:
    """300,000 coordinates: beyond the sample and one chunk; same promises."""
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(0)).pow(3)
    layout = Layout(("w",), ((300_000,),))
    for spec in ("topk:0.001+bf16", "topk:0.02+zstd", "topk:0.9", "threshold:1+log3", "threshold:5+fp16", "qsgd:9"):
        codec = make_codec(spec)
        payload, decoded = codec.encode(x, key=3)
        expected, _ = promised(spec, x, layout, 3)
        assert bits(codec.decode(payload, x.numel()).dense()) == expected.tobytes() == bits(decoded.dense())


def test_clusters_take_few_bytes() -> None:
    """The kept tenth lies in the first 30 %: Rice, or gaps where there is an entropy stage; 2.75 bits is their entropy."""
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x[30_000:] *= 1e-6
    plain, coded = (read_header(make_codec(f"topk:0.1{tail}").encode(x)[0]) for tail in ("", "+zstd"))
    assert (plain.index, coded.index) == (IndexFormat.RICE, IndexFormat.GAPS)
    assert 2.75 * 10_000 / 8 < coded.index_bytes < plain.index_bytes < 3.2 * 10_000 / 8


@pytest.mark.parametrize("spec", ["none", *PLAIN])
def test_strided_and_single_values(spec: str) -> None:
    """A view with a step, and one value expanded: the same payload as a copy."""
    x = torch.randn(60, generator=torch.Generator().manual_seed(0))
    for view in (x[::3], torch.tensor(2.0).expand(1), torch.tensor(2.0).expand(9), x.view(6, 10).t()[0]):
        layout = layers(view.numel())
        payload, decoded = make_codec(spec).encode(view, layout)
        expected, _ = make_codec(spec).encode(view.clone(memory_format=torch.contiguous_format), layout)
        assert torch.equal(payload, expected)
        assert torch.equal(decoded.dense(), make_codec(spec).decode(payload, view.numel(), layout).dense())


@pytest.mark.parametrize("spec", SPECS)
def test_the_default_dtype_changes_nothing(spec: str) -> None:
    """With a default of float64, the same bytes and the same fp32 values as with float32."""
    codec, layout = make_codec(spec), layers(300)
    x = torch.randn(300, generator=torch.Generator().manual_seed(0))
    payload, decoded = codec.encode(x.clone(), layout, key=1)
    expected = decoded.dense()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        codec = make_codec(spec)
        again, _ = codec.encode(x.clone(), layout, key=1)
        values = codec.decode(again, 300, layout).dense()
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(again, payload)
    assert torch.equal(values, expected)
    assert values.dtype is torch.float32


def test_kind_and_length_must_be_the_expected() -> None:
    """Buffers are no update and no factors, and 3 coordinates are not 4."""
    payload, _ = BUFFERS.encode(torch.ones(3))
    assert BUFFERS.decode(payload, 3).values.tolist() == [1, 1, 1]
    update, layout = make_codec("none"), Layout(("b",), ((3,),))
    for codec, n in ((update, 3), (BUFFERS, 4), (make_codec("powersgd:1"), 3)):
        with pytest.raises(PayloadError):
            codec.decode(payload, n, layout)
    with pytest.raises(PayloadError, match="expected UPDATE"):
        update.decode(make_codec("powersgd:1").encode(torch.ones(3), layout)[0], 3)


@pytest.mark.parametrize("spec", ["powersgd:1", "cost:0.1", "topk:0.1,scope=layer"])
def test_a_layout_is_asked_for(spec: str) -> None:
    """By codecs that look at tensors; the message says so."""
    with pytest.raises(ValueError, match="pass a layout"):
        make_codec(spec).encode(torch.ones(5))


def test_what_a_codec_says_of_itself() -> None:
    """Only exact dense codecs are lossless; topk:1 sends everything too, but that is for the selector to know."""
    assert [spec for spec in SPECS if make_codec(spec).lossless] == ["none", "fp32", "fp32+zstd"]
    assert {spec.split(":")[0] for spec in SPECS if make_codec(spec).warm} == {"powersgd"}
    assert make_codec("none") == make_codec("none")
    codec = make_codec("topk:0.1+qsgd:3+zstd")
    assert isinstance(codec, SparseCodec)
    assert codec.value == Qsgd.of(3)
    assert codec.coded
    assert make_codec("powersgd:2").factors.value is FP32  # type: ignore[attr-defined]


@EXAMPLES
@given(spec=st.sampled_from(SPECS), density=st.sampled_from([1e-3, 0.1, 0.5, 1.0]))
def test_another_density(spec: str, density: float) -> None:
    """The selector keeps that fraction of 1,000 equal coordinates; what keeps no fraction says so."""
    codec, x = make_codec(spec), torch.ones(1000)
    if codec.density is None:
        with pytest.raises(ValueError, match=r"no fraction that could change|no kept fraction"):
            codec.with_density(density)
        return
    other = codec.with_density(density)
    assert other.density == pytest.approx(density)
    assert codec.density == make_codec(spec).density
    if spec.startswith(("topk", "randk")) and "scope" not in spec:
        assert other.encode(x, layers(1000))[1].kept == round(density * 1000)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_spec
def test_a_gpu_makes_the_same_bytes(spec: str) -> None:
    """Oracle: the CPU. Low-rank factors come from matrix products, which round differently; what they stand for does not."""
    for n in (0, 1, 9, 1000, 300_000):
        x, layout = torch.randn(n, generator=torch.Generator().manual_seed(n)), layers(n)
        codec = make_codec(spec)
        expected, on_cpu = codec.encode(x.clone(), layout, key=5)
        payload, decoded = codec.encode(x.cuda(), layout, key=5)
        assert payload.is_cuda
        assert np.array_equal(codec.decode(payload, n, layout).dense().cpu(), decoded.dense().cpu())
        if isinstance(codec, LowRankCodec):
            assert bits(codec.decode(expected.cuda(), n, layout).dense().cpu()) == bits(on_cpu.dense())
        else:
            assert torch.equal(payload.cpu(), expected)
            assert bits(decoded.dense().cpu()) == bits(on_cpu.dense())
