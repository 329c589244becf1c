"""The specification language. Oracle: the grammar in the module's docstring, written out as expected stages."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.make import make_codec
from compression.spec import SpecError, Stage, closest, nearest, parse, parse_stage
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
@given(NAMES, st.sampled_from(":,"), st.lists(WORDS, max_size=3), st.dictionaries(NAMES, WORDS, max_size=3))
def test_a_stage_is_quoted_as_it_was_written(name: str, mark: str, args: list[str], options: dict[str, str]) -> None:
    """Messages show the user's own text, whichever of the two marks stands behind the name."""
    words = [*args, *(f"{key}={value}" for key, value in options.items())]
    text = name + (mark + ",".join(words) if words else "")
    stage = parse_stage(f" {text} ")
    assert stage == Stage(name, tuple(args), options)
    assert str(stage) == text


def test_a_flag_may_stand_anywhere_behind_the_first_argument() -> None:
    """Among options or before them; where nobody knows it, it is an argument like any other."""
    wanted = Stage("a", ("1",), {"x": "2"}, ("latest",))
    for text in ("a:1,latest,x=2", "a:1,x=2,latest"):
        assert parse_stage(text, ("latest",)) == wanted
    assert parse_stage("a:1,latest") == Stage("a", ("1", "latest"))


@EXAMPLES
@given(
    st.one_of(
        st.text(max_size=30),
        st.lists(
            st.sampled_from(
                [
                    "topk",
                    "cost",
                    "powersgd",
                    "qsgd",
                    "none",
                    "zstd",
                    "bf16",
                    ":",
                    ",",
                    "=",
                    "+",
                    "0.1",
                    "3",
                    "scope",
                    " ",
                ]
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


REFUSED = [
    # a name that is none: the nearest one
    ("tpok:0.1", "'tpok:0.1': there is no codec stage 'tpok'; did you mean 'topk'?$"),
    ("topk:0.1+bf61", "there is no codec stage 'bf61'; did you mean 'bf16'?$"),
    ("TopK:0.1", "did you mean 'topk'?$"),
    ("topk:0.1+float16", "there is no codec stage 'float16'; known: none, dct, topk, .*fp16"),
    ("topk0.01", "a specification starts with a name, as in NAME or NAME:NUMBER$"),
    ("qqqqqq", "there is no codec stage 'qqqqqq'; known: none, dct, topk, .*fp32, .*zstd$"),
    ("csr", "csr is now a plug-in: csr_codec:csr, with 'Bandwidth Analysis' in PYTHONPATH$"),
    # order and number of stages
    ("none+bf16", "'none' stands alone$"),
    ("topk:0.1+none", "'none' stands alone$"),
    ("bf16+topk:0.1", "at most one each of dct, what to send, value format and zstd, in this order$"),
    ("topk:0.1+prune:0.5", "at most one each of dct, what to send, value format and zstd, in this order$"),
    ("topk:0.1+bf16+fp16", "in this order$"),
    ("powersgd:2+topk:0.1+int8", "in this order$"),
    ("bf16+zstd+zstd", "in this order$"),
    # a number that is missing: an example
    ("topk", "topk takes 1 argument(s), as in topk:0.01, not 0$"),
    ("topk,scope=layer+bf16", "as in topk:0.01, not 0$"),
    ("prune+zstd", "as in prune:0.99, not 0$"),
    ("threshold", "as in threshold:0.001, not 0$"),
    ("randk+int8", "as in randk:0.1, not 0$"),
    ("cost,conv=2", "as in cost:0.01, not 0$"),
    ("powersgd", "as in powersgd:4, not 0$"),
    ("topk:0.1+qsgd", "as in qsgd:127, not 0$"),
    # a number that is wrong
    ("topk:1%", "the kept fraction must be a number, not '1%'; did you mean 0.01?$"),
    ("prune:99.5%+bf16", "the sparsity must be a number, not '99.5%'; did you mean 0.995?$"),
    ("topk:0.0001%", "did you mean 1e-06?$"),
    ("topk:%", "must be a number, not '%'$"),
    ("topk:x", "must be a number, not 'x'$"),
    ("topk:0.1,0.2", "topk takes 1 argument"),
    ("topk:0_1", "must be a number, not '0_1'$"),
    ("topk:1_0e-2", "must be a number, not '1_0e-2'$"),
    ("topk:\u0660.1", "must be a number, not '\u0660.1'$"),
    ("powersgd:\u0663", "must be a whole number of at least 1, not '\u0663'$"),
    ("powersgd:1_0", "must be a whole number of at least 1, not '1_0'$"),
    ("topk:nan", "must be a number, not 'nan'$"),
    ("topk:inf", "must be a number, not 'inf'$"),
    ("threshold:1e999", "between 1e-38 and 1e+38, not 1e999$"),
    ("topk:0", "between 1e-09 and 1, not 0$"),
    ("topk:1.5", "between 1e-09 and 1, not 1.5$"),
    ("randk:2", "the kept fraction must lie between"),
    ("cost:-1", "the kept fraction must lie between"),
    ("prune:-0.1", "the sparsity must lie between 0 and 1"),
    ("threshold:0", "the threshold must lie between"),
    ("qsgd:0", "levels must be a whole number of at least 1, not '0'"),
    ("topk:0.1+qsgd:128", "levels must be at most 127, not 128"),
    ("powersgd:0", "the rank must be a whole number of at least 1, not '0'"),
    ("powersgd:1.5", "the rank must be a whole number of at least 1, not '1.5'"),
    ("powersgd:2,3", "powersgd takes 1 argument"),
    ("bf16:8", "bf16 takes 0 argument"),
    ("none:1", "none takes 0 argument(s), not 1$"),
    ("topk:0.1+zstd:3", "zstd takes 0 argument(s), not 1$"),
    ("topk:0.01,bf16", "topk takes 1 argument(s), as in topk:0.01, not 2$"),
    # a named option that is wrong
    ("topk:0.1,scop=layer", "no option 'scop'; did you mean 'scope'?"),
    ("topk:0.1,scope=tensor", "global or layer, not 'tensor'"),
    ("threshold:1,scope=layer", "threshold has no option 'scope'"),
    ("randk:0.1,scope=layer", "randk has no option 'scope'"),
    ("cost:0.1,liner=2", "no option 'liner'; did you mean 'linear'?"),
    ("cost:0.1,linear=x", "linear must be a number, not 'x'"),
    ("cost:0.1,linear=0.0001", "between 0.001 and 1000"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_codec_specifications_that_are_refused(text: str, says: str) -> None:
    """The message says what is wrong, and where it can what would be right."""
    with pytest.raises(SpecError, match=re.sub(r"[?+()]", r"\\\g<0>", says)):
        make_codec(text)


@pytest.mark.parametrize(
    "text", ["none", "zstd", "fp32", " topk : 0.1 , scope=layer + bf16 ", "qsgd:127", "cost:1,conv=0.001,bias=1000"]
)
def test_codec_specifications_that_are_fine(text: str) -> None:
    """And a codec remembers what it was made from."""
    assert make_codec(text).spec == text


def test_whole_numbers() -> None:
    """`integer` takes decimal digits of at least `low`, nothing else."""
    assert Stage("shards", ("3",)).integer(0, 1, "the number") == 3
    for text in ("0", "-1", "1.0", "x", "1e3", "9" * 5000, "9" * 5000 + "x"):
        with pytest.raises(SpecError, match="whole number of at least 1"):
            Stage("shards", (text,)).integer(0, 1, "the number")
    for text in ("1_0", "\u0663", "1\u0663"):  # int() takes them
        with pytest.raises(SpecError, match="whole number of at least 1"):
            Stage("shards", (text,)).integer(0, 1, "the number")


def test_messages_name_no_other_option() -> None:
    """The language is that of codecs, partitions and schedules alike; a percentage is answered with its fraction."""
    with pytest.raises(SpecError, match=r"^'1a': a specification starts with a name, as in NAME or NAME:NUMBER$"):
        parse("1a")
    with pytest.raises(SpecError, match=r"'dirichlet:30%': alpha must be a number, not '30%'; did you mean 0\.3\?$"):
        parse_stage("dirichlet:30%").number(0, 0, 1, "alpha")


def test_the_nearest_word() -> None:
    """Whatever the case of both, and as it is known; a list only if it is one to read."""
    known = ["LEANFED_ROUNDS", "lr", "LEANFED_UPLINK"]
    assert closest("LEANFED_ROUNDZ", known) == closest("leanfed_roundz", known) == "LEANFED_ROUNDS"
    assert closest("LR", known) == "lr"
    assert closest("qqq", known) is None
    assert nearest("LEANFED_ROUNDZ", known) == "; did you mean 'LEANFED_ROUNDS'?"
    assert nearest("qqq", known) == "; known: LEANFED_ROUNDS, lr, LEANFED_UPLINK"
    assert nearest("qqq", []) == ""
    assert nearest("qqq", [f"a{i}" for i in range(12)]).startswith("; known: a0, a1,")
    assert nearest("qqq", [f"a{i}" for i in range(13)]) == ""
