"""What holds for every value format: shapes, the same bits on every path, refusal of what no sender writes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import draws
from compression.errors import PayloadError
from compression.spec import SpecError, parse_stage
from compression.values import INT4, LOG4, SIGN, VALUE_NAMES, Qsgd, ValueFormat, base, make_value, value_of
from tests.compression.cases import EXAMPLES, bits
from tests.compression.values.examples import ANY, BLOCKWISE, FORMATS, KEYS

every = pytest.mark.parametrize("form", FORMATS, ids=str)
blockwise = pytest.mark.parametrize("form", BLOCKWISE, ids=str)


@every
@EXAMPLES
@given(x=ANY, key=KEYS)
def test_shapes_and_finite(form: ValueFormat, x: Tensor, key: int) -> None:
    """Sizes follow from k alone; codes fit into their width; whatever finite goes in, finite comes out; x stays."""
    k, before = x.numel(), bits(x)
    side, codes = form.quantise(x, key)
    assert side.dtype == codes.dtype == torch.uint8
    assert side.shape == (form.side_bytes(k),)
    assert codes.shape == (k * form.width // 8 if form.width > 8 else k,)
    assert form.width >= 8 or not (codes >> form.width).any()
    restored = form.restore(side, codes, k)
    assert restored.dtype == torch.float32
    assert restored.shape == (k,)
    assert bool(torch.isfinite(restored).all())
    assert bits(x) == before


@blockwise
@EXAMPLES
@given(x=ANY, key=KEYS)
def test_same_bits_on_every_path(form: ValueFormat, x: Tensor, key: int) -> None:
    """Small chunks, one thread or two, torch's random numbers for NumPy's, and strided input give the same bytes."""
    side, codes = form.quantise(x, key)
    restored = bits(form.restore(side, codes, x.numel()))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_CPU_CHUNK", 512)
        patch.setattr(draws, "_uniform_numpy", draws._uniform_torch)
        torch.set_num_threads(2 if threads == 1 else 1)
        other_side, other = form.quantise(torch.stack((x, x), 1)[:, 1], key)
        # As cut out of a payload: at an odd offset.
        cut = torch.cat((torch.zeros(1, dtype=torch.uint8), side))[1:]
        assert bits(form.restore(cut, torch.stack((codes, codes), 1)[:, 0], x.numel())) == restored
        torch.set_num_threads(threads)
    assert torch.equal(side, other_side)
    assert torch.equal(codes, other)


@blockwise
def test_keys(form: ValueFormat) -> None:
    """Another key gives other codes exactly where the format says that it is stochastic; all values drawn apart."""
    x = torch.linspace(-1, 1, 1000)
    assert torch.equal(form.quantise(x, 1)[1], form.quantise(x, 1)[1])
    assert torch.equal(form.quantise(x, 1)[1], form.quantise(x, 2)[1]) != form.stochastic
    if form.stochastic:
        codes = form.quantise(torch.full((2048,), 0.3).index_fill_(0, torch.arange(0, 2048, 256), 1.0), 1)[1]
        rows = codes.view(-1, form.block)  # type: ignore[attr-defined]
        assert len({bits(row) for row in rows}) == len(rows)


@blockwise
@EXAMPLES
@given(data=st.data(), k=st.sampled_from([0, 1, 5, 256, 513]))
def test_restores_or_refuses(form: ValueFormat, data: st.DataObject, k: int) -> None:
    """Any bytes of the right lengths give k finite values or PayloadError."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    high = data.draw(st.sampled_from([256, 128, 1]))
    side = torch.from_numpy(rng.integers(0, high, form.side_bytes(k), dtype=np.uint8))
    codes = torch.from_numpy(rng.integers(0, data.draw(st.sampled_from([256, 1 << form.width, 2])), k, dtype=np.uint8))
    try:
        restored = form.restore(side, codes, k)
    except PayloadError:
        return
    assert restored.shape == (k,)
    assert bool(torch.isfinite(restored).all())


@every
def test_refuses_wrong_lengths(form: ValueFormat) -> None:
    """One byte more or fewer of either part."""
    side, codes = form.quantise(torch.ones(300))
    more = torch.zeros(1, dtype=torch.uint8)
    for wrong in ((side, codes[:-1]), (side, torch.cat((codes, more))), (torch.cat((side, more)), codes)):
        with pytest.raises(PayloadError, match=r"for 300 values of"):
            form.restore(*wrong, 300)
    if len(side):
        with pytest.raises(PayloadError, match=r"for 300 values of"):
            form.restore(side[:-1], codes, 300)


@pytest.mark.parametrize("form", [f for f in BLOCKWISE if f.code != LOG4.code], ids=str)
def test_refuses_impossible_codes(form: ValueFormat) -> None:
    """The largest code passes, one more does not."""
    side, codes = form.quantise(torch.ones(300))
    largest = form.code_count - 1  # type: ignore[attr-defined]
    codes[299] = largest
    form.restore(side, codes, 300)
    codes[299] = largest + 1
    with pytest.raises(PayloadError, match=rf"beyond the largest, {largest}$"):
        form.restore(side, codes, 300)


@pytest.mark.parametrize("form", [f for f in BLOCKWISE if "log" not in f.name], ids=str)
@pytest.mark.parametrize("scale", [-1.0, -0.0, float("inf"), float("nan")])
def test_refuses_impossible_scales(form: ValueFormat, scale: float) -> None:
    """In the last block of three."""
    side, codes = form.quantise(torch.ones(1100))
    side.view(torch.float32)[-1] = scale
    with pytest.raises(PayloadError, match="scale is negative, infinite or NaN"):
        form.restore(side, codes, 1100)


def test_header_codes() -> None:
    """Numbers that stand in payload headers must not change; name, header and format say the same."""
    forms = [make_value(parse_stage(name if name != "qsgd" else "qsgd:9")) for name in VALUE_NAMES]
    assert {str(form): (form.code, form.parameter, form.width) for form in forms} == {
        "fp32": (0, 0, 32),
        "fp16": (1, 0, 16),
        "bf16": (2, 0, 16),
        "int8": (3, 0, 8),
        "int4": (4, 0, 4),
        "log4": (5, 0, 4),
        "log3": (6, 0, 3),
        "log2": (9, 0, 2),
        "sign": (7, 0, 1),
        "qsgd:9": (8, 9, 5),
    }
    assert all(value_of(form.code, form.parameter) == form for form in forms)
    assert [form.name for form in forms if form.exact] == ["fp32"]
    assert [form.name for form in forms if form.stochastic] == ["int8", "int4", "qsgd"]
    assert [Qsgd.of(levels).width for levels in (1, 3, 4, 7, 8, 127)] == [2, 3, 4, 4, 5, 8]
    assert [INT4.side_bytes(k) for k in (0, 1, 256, 257)] == [0, 4, 4, 8]
    assert [SIGN.side_bytes(k) for k in (0, 1, 256, 257)] == [0, 4, 4, 8]
    assert [Qsgd.of(1).side_bytes(k) for k in (0, 1, 512, 513)] == [0, 4, 4, 8]


@pytest.mark.parametrize(("code", "parameter"), [(10, 0), (254, 0), (255, 0), (8, 0), (8, 128), (3, 1), (0, 7)])
def test_refuses_unknown_headers(code: int, parameter: int) -> None:
    """Codes that are none, levels out of range, and a parameter where there is none."""
    with pytest.raises(PayloadError, match=f"unknown value format {code} with parameter {parameter}"):
        value_of(code, parameter)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("int9", "no value format 'int9'; did you mean 'int"),
        ("int8:2", "int8 takes 0 argument"),
        ("log4,base=2", "log4 has no option 'base'"),
        ("qsgd", "qsgd takes 1 argument"),
        ("qsgd:0", "levels must be a whole number of at least 1, not '0'"),
        ("qsgd:128", "levels must be at most 127, not 128"),
        ("qsgd:2.5", "levels must be a whole number"),
    ],
)
def test_refuses_wrong_specifications(spec: str, message: str) -> None:
    """The message names the option and what would be right."""
    with pytest.raises(SpecError, match=message):
        make_value(parse_stage(spec))
