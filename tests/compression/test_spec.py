"""The specification language. Oracle: the grammar in the module's docstring, written out as expected stages."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.codec import make_codec
from compression.spec import SpecError, Stage, parse, parse_stage
from compression.values import ValueFormat
from tests.compression.cases import EXAMPLES

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
WORDS = st.from_regex(r"[A-Za-z0-9_.:/-]{1,8}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("none", [Stage("none")]),
        ("topk:0.01", [Stage("topk", ("0.01",))]),
        (" topk : 0.01 , scope=layer + bf16 ", [Stage("topk", ("0.01",), {"scope": "layer"}), Stage("bf16")]),
        ("a:1,2,x=3,y=4", [Stage("a", ("1", "2"), {"x": "3", "y": "4"})]),
        ("a,x=3", [Stage("a", (), {"x": "3"})]),
        ("a:x=3", [Stage("a", (), {"x": "3"})]),
        ("a,x=b:c,y=1", [Stage("a", (), {"x": "b:c", "y": "1"})]),
        ("threshold:1e+3+fp16", [Stage("threshold", ("1e+3",)), Stage("fp16")]),
        ("threshold:1e-3", [Stage("threshold", ("1e-3",))]),
        ("a:b=c=d", [Stage("a", (), {"b": "c=d"})]),
    ],
)
def test_reads_the_grammar(text: str, stages: list[Stage]) -> None:
    """Oracle: the stages by hand."""
    assert list(parse(text)) == stages


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", ":", "+", "a+", "+a", "a:", "a,", "a:,", "a:1,", "a:1,,2", "a:x=", "a:=1", "a:x=1,x=2", "a:x=1,2"),
        *("1a", "a b", "a-b:1"),
    ],
)
def test_refuses_malformed_text(text: str) -> None:
    """A stage without a name, an empty word, a repeated or misplaced option."""
    with pytest.raises(SpecError):
        parse(text)


@EXAMPLES
@given(NAMES, st.lists(WORDS, max_size=3), st.dictionaries(NAMES, WORDS, max_size=3))
def test_text_of_a_stage_reads_back(name: str, args: list[str], options: dict[str, str]) -> None:
    """str() is the inverse of parse."""
    stage = Stage(name, tuple(args), options)
    assert parse_stage(str(stage)) == stage


@EXAMPLES
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(
            st.sampled_from(
                ["topk", "prune", "none", "bf16", ":", ",", "=", "+", "0.1", "1e+3", "scope", "layer", " "]
            ),
            max_size=9,
        ).map("".join),
    )
)
def test_any_text_is_a_codec_or_a_specerror(text: str) -> None:
    """Never another exception, and what is read reads back."""
    with contextlib.suppress(SpecError):
        stages = parse(text)
        assert parse("+".join(map(str, stages))) == stages
        make_codec(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tpok:0.1", "did you mean 'topk'"),
        ("topk", "takes 1 argument"),
        ("topk:0.1,0.2", "takes 1 argument"),
        ("topk:0", "between 1e-09 and 1"),
        ("topk:1.5", "between"),
        ("topk:nan", "between"),
        ("topk:inf", "between"),
        ("topk:0.1+", "must be a number"),
        ("topk:0.1++bf16", "must be a number"),
        ("topk:x", "must be a number, not 'x'"),
        ("topk:0.1,scop=layer", "did you mean 'scope'"),
        ("topk:0.1,scope=tensor", "global or layer"),
        ("prune:-0.1", "between 0 and 1"),
        ("threshold:0", "between"),
        ("threshold:1,scope=layer", "no option 'scope'"),
        ("none:1", "takes 0 argument"),
        ("none+bf16", "stands alone"),
        ("bf16:8", "takes 0 argument"),
        ("bf16+topk:0.1", "out of place"),
        ("topk:0.1+prune:0.5", "out of place"),
        ("topk:0.1+bf16+fp16", "out of place"),
        ("topk:0.1+none", "out of place"),
    ],
)
def test_codec_specifications_that_are_refused(text: str, says: str) -> None:
    """The message says what is wrong."""
    with pytest.raises(SpecError, match=says):
        make_codec(text)


def test_lossless_is_only_the_exact_dense_codec() -> None:
    """topk:1 sends everything too, but that is for the selector to know."""
    assert make_codec("none").lossless
    assert make_codec("none") == make_codec("none")
    assert make_codec("fp32").lossless
    assert not make_codec("bf16").lossless
    assert not make_codec("topk:1").lossless
    assert make_codec("topk:0.1+fp16").value is ValueFormat.FP16


def test_whole_numbers() -> None:
    """`integer` takes decimal digits of at least `low`, nothing else."""
    assert Stage("shards", ("3",)).integer(0, 1, "the number") == 3
    for text in ("0", "-1", "1.0", "x", "1e3", "9" * 5000 + "x"):
        with pytest.raises(SpecError, match="whole number of at least 1"):
            Stage("shards", (text,)).integer(0, 1, "the number")
