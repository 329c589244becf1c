"""Codecs by specification: `none`, `[SELECTOR+]FORMAT[+zstd]`, `powersgd:RANK[+FORMAT][+zstd]`, or `csr`."""

import re

from .codec import Codec, CsrCodec, LowRankCodec, SparseCodec
from .lowrank import LowRank
from .select import SELECTOR_NAMES, make_selector
from .select.kinds import KINDS
from .spec import SpecError, Stage, closest, fraction, parse
from .values import VALUE_NAMES, make_value
from .wire import Kind

_ENTROPY = "zstd"
_ALONE = ("none", "csr")
_USUAL = {
    "topk": "0.01",
    "prune": "0.99",
    "threshold": "0.001",
    "randk": "0.1",
    "cost": "0.01",
    "powersgd": "4",
    "qsgd": "127",
}
STAGE_NAMES = (*_ALONE, *SELECTOR_NAMES, "powersgd", *VALUE_NAMES, _ENTROPY)

_ELSEWHERE = {"float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32", "bfloat16": "bf16"}
_SCOPES = ("global", "layer")
_WORDS = (*STAGE_NAMES, *_ELSEWHERE, *KINDS, "scope", *_SCOPES)
_SEPARATORS = "+,:;= \t"
_WORD_AND_NUMBER = re.compile(
    rf"([a-z][a-z_-]*)(?:[{_SEPARATORS}]*(-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?%?))?"
)
_ADVICE = re.compile(r"; (did you mean|known:) ")


def make_codec(spec: str) -> Codec:
    """The codec that a specification names; SpecError, with the nearest right specification, if there is none."""
    try:
        return _make(spec)
    except SpecError as error:
        meant = _meant(spec)
        if meant is None:
            raise
        raise SpecError(f"{_ADVICE.split(str(error))[0]}; did you mean '{meant}'?") from None


def _make(spec: str) -> Codec:
    stages = list(parse(spec))
    _check(spec, stages)
    if stages[0].name == "none":
        stages[0].expect(0)
        return SparseCodec(spec, None, make_value(Stage("fp32")))
    if stages[0].name == "csr":
        stages[0].expect(0)
        return CsrCodec(spec)
    coded = stages[-1].name == _ENTROPY
    if coded:
        stages.pop().expect(0)
    first = stages[0] if stages and stages[0].name not in VALUE_NAMES else None
    rest = stages[1:] if first else stages
    value = make_value(rest[0] if rest else Stage("fp32"))
    if first is not None and first.name == "powersgd":
        rank = first.expect(1).integer(0, 1, "the rank")
        return LowRankCodec(spec, LowRank(rank), SparseCodec(spec, None, value, coded, Kind.FACTORS))
    return SparseCodec(spec, make_selector(first) if first else None, value, coded)


def _check(spec: str, stages: list[Stage]) -> None:
    """SpecError unless every name is known and in its place, and has a number if it needs one."""
    for stage in stages:
        if stage.name not in STAGE_NAMES:
            raise SpecError(f"'{spec}': there is no codec stage '{stage.name}'; known: {', '.join(STAGE_NAMES)}")
        if stage.name in _ALONE and len(stages) > 1:
            raise SpecError(f"'{spec}': '{stage.name}' stands alone")
        if stage.name in _USUAL and not stage.args:
            raise SpecError(f"'{spec}': '{stage.name}' needs a number")
    places = [_place(stage) for stage in stages]
    if places != sorted(set(places)):
        raise SpecError(f"'{spec}': a codec is at most one each of what to send, value format and zstd, in this order")


def _place(stage: Stage) -> int:
    """0: what to send, 1: how precisely, 2: entropy coding."""
    return 1 if stage.name in VALUE_NAMES else 2 if stage.name == _ENTROPY else 0


def _meant(spec: str) -> str | None:
    """The right specification that `spec` is most like, from its words and numbers alone; None if there is none."""
    spec = spec.casefold()
    if _WORD_AND_NUMBER.sub("", spec).strip(_SEPARATORS):
        return None
    stages: list[Stage] = []
    options: dict[str, str] = {}
    for word, number in _WORD_AND_NUMBER.findall(spec):
        name = closest(word, _WORDS)
        if name in KINDS:
            options[name] = number
        elif name in _SCOPES:
            options["scope"] = name
        elif name in _USUAL:
            stages.append(Stage(name, (fraction(number) if number.endswith("%") else number or _USUAL[name],)))
        elif name != "scope":
            name = closest(word + number, _WORDS)  # the number of fp16 is a part of the name
            if name is None:
                return None
            stages.append(Stage(_ELSEWHERE.get(name, name)))
    stages = [stage for stage in stages if stage.name not in _ALONE] or stages[:1]
    first_of_each = {_place(stage): stage for stage in reversed(stages)}
    if 0 in first_of_each:
        first_of_each[0] = Stage(first_of_each[0].name, first_of_each[0].args, options)
    right = "+".join(str(first_of_each[place]) for place in sorted(first_of_each))
    try:
        _make(right)
    except SpecError:
        return None
    return right
