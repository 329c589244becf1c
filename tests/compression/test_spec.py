"""The specification language. Oracle: the grammar in the module's docstring, written out as expected stages."""

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.make import STAGE_NAMES, make_codec
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
    # a name that is none: the whole specification with the nearest one
    ("tpok:0.1", "there is no codec stage 'tpok'; did you mean 'topk:0.1'?"),
    ("topk:0.1+bf61", "there is no codec stage 'bf61'; did you mean 'topk:0.1+bf16'?"),
    ("tokp:0.1,scope=layer+bf16+zstd", "did you mean 'topk:0.1,scope=layer+bf16+zstd'?"),
    ("topk:0.1+fp16+zst", "did you mean 'topk:0.1+fp16+zstd'?"),
    ("pwoersgd:2+bf16", "did you mean 'powersgd:2+bf16'?"),
    ("TopK:0.1", "did you mean 'topk:0.1'?"),
    (
        "qqqqqq",
        "there is no codec stage 'qqqqqq'; known: none, csr, topk, prune, threshold, randk, cost, powersgd, fp32",
    ),
    # order and number of stages
    ("none+bf16", "'none' stands alone; did you mean 'bf16'?"),
    ("topk:0.1+none", "'none' stands alone; did you mean 'topk:0.1'?"),
    ("csr+zstd", "'csr' stands alone; did you mean 'zstd'?"),
    ("none+csr", "'none' stands alone; did you mean 'none'?"),
    ("bf16+topk:0.1", "in this order; did you mean 'topk:0.1+bf16'?"),
    ("zstd+int8+topk:0.1,scope=layer", "did you mean 'topk:0.1,scope=layer+int8+zstd'?"),
    ("topk:0.1+prune:0.5", "at most one each of what to send, value format and zstd, .*did you mean 'topk:0.1'?"),
    ("topk:0.1+bf16+fp16", "did you mean 'topk:0.1+bf16'?"),
    ("powersgd:2+topk:0.1+int8", "did you mean 'powersgd:2+int8'?"),
    ("bf16+zstd+zstd", "did you mean 'bf16+zstd'?"),
    # a number that is missing
    ("topk", "'topk' needs a number; did you mean 'topk:0.01'?"),
    ("topk,scope=layer+bf16", "did you mean 'topk:0.01,scope=layer+bf16'?"),
    ("prune+zstd", "did you mean 'prune:0.99+zstd'?"),
    ("threshold", "did you mean 'threshold:0.001'?"),
    ("randk+int8", "did you mean 'randk:0.1+int8'?"),
    ("cost,conv=2", "did you mean 'cost:0.01,conv=2'?"),
    ("powersgd", "did you mean 'powersgd:4'?"),
    ("topk:0.1+qsgd", "did you mean 'topk:0.1+qsgd:127'?"),
    # a number that is wrong
    ("topk:1%", "the kept fraction must be a number, not '1%'; did you mean 'topk:0.01'?"),
    ("prune:99.5%+bf16", "the sparsity must be a number, not '99.5%'; did you mean 'prune:0.995+bf16'?"),
    ("topk:0.0001%", "did you mean 'topk:1e-06'?"),
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
    ("none:1", "none takes 0 argument.*; did you mean 'none'?"),
    ("csr:1", "csr takes 0 argument.*; did you mean 'csr'?"),
    ("topk:0.1+zstd:3", "zstd takes 0 argument.*; did you mean 'topk:0.1+zstd'?"),
    # a named option that is wrong
    ("topk:0.1,scop=layer", "no option 'scop'; did you mean 'topk:0.1,scope=layer'?"),
    ("topk:0.1,scope=tensor", "global or layer, not 'tensor'"),
    ("threshold:1,scope=layer", "threshold has no option 'scope'"),
    ("randk:0.1,scope=layer", "randk has no option 'scope'"),
    ("cost:0.1,liner=2", "no option 'liner'; did you mean 'cost:0.1,linear=2'?"),
    ("cost:0.1,linear=x", "linear must be a number, not 'x'"),
    ("cost:0.1,linear=0.0001", "between 0.001 and 1000"),
]


@pytest.mark.parametrize(("text", "says"), REFUSED)
def test_codec_specifications_that_are_refused(text: str, says: str) -> None:
    """The message says what is wrong, and where it can what would be right."""
    with pytest.raises(SpecError, match=says.replace("?", r"\?").replace("+", r"\+")):
        make_codec(text)


MEANT = [
    # the wrong thing between the words
    *[(text, "topk:0.01+bf16") for text in ("topk:0.01,bf16", "topk:0.01:bf16", "topk 0.01 bf16", "topk=0.01=bf16")],
    *[(text, "topk:0.01") for text in ("topk0.01", "topk=0.01", "topk:0.01+", "topk:", "top-k:0.01", "top_k:0.01")],
    ("topk:0.1++bf16", "topk:0.1+bf16"),
    ("powersgd:2,bf16", "powersgd:2+bf16"),
    ("powersgd2+int:8", "powersgd:2+int8"),
    ("topk:0.01,zstd", "topk:0.01+zstd"),
    ("topk:1e-3,bf16", "topk:1e-3+bf16"),
    ("qsgd127", "qsgd:127"),
    # names of the same thing elsewhere
    *[
        ("float16", "fp16"),
        ("half", "fp16"),
        ("float32", "fp32"),
        ("bfloat16", "bf16"),
        ("topk:0.1+half", "topk:0.1+fp16"),
    ],
    # several mistakes at once: one step
    ("tpok", "topk:0.01"),
    ("topk:1%,scop=layer+zst", "topk:0.01,scope=layer+zstd"),
    ("ZSTD+Float16+cost:5%,conv=2,liner=3", "cost:0.05,conv=2,linear=3+fp16+zstd"),
]


@pytest.mark.parametrize(("text", "right"), MEANT)
def test_common_slips_are_answered_with_what_was_meant(text: str, right: str) -> None:
    """By hand: the whole specification, at the end of the message and nowhere else in it."""
    with pytest.raises(SpecError) as caught:
        make_codec(text)
    assert str(caught.value).startswith(f"'{text.partition('+')[0]}")
    assert re.findall("did you mean .*", str(caught.value)) == [f"did you mean '{right}'?"]


WORDS_OF_SPECS = [*STAGE_NAMES, "tpok:0.1", "topk:0.1", "prune:0.9", "quantize", "int", "fp61", "qsgd:3", "none:1", "x"]


@EXAMPLES
@given(st.lists(st.sampled_from(WORDS_OF_SPECS), min_size=1, max_size=4), st.sampled_from([*"+,:= ", "++", ", "]))
def test_advice_is_a_codec(words: list[str], joined: str) -> None:
    """Whatever is wrong at once, advice leads to a codec in one step; none is given only for words like no other."""
    text = joined.join(words)
    try:
        make_codec(text)
    except SpecError as error:
        advice = re.search(r"did you mean '([^']*)'\?$", str(error))
        if advice:
            assert make_codec(advice[1]).spec == advice[1]
        else:
            assert {"quantize", "x"} & set(words)


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
