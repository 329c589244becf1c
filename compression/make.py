"""Codecs by specification: `none`, `[SELECTOR+]FORMAT[+zstd]`, `powersgd:RANK[+FORMAT][+zstd]`, or a plug-in's name."""

import importlib

from .codec import Codec, LowRankCodec, SparseCodec
from .lowrank import LowRank
from .select import SELECTOR_NAMES, make_selector
from .spec import FUNCTION, SpecError, Stage, nearest, parse
from .values import VALUE_NAMES, make_value
from .wire import Kind

_ENTROPY = "zstd"
STAGE_NAMES = ("none", *SELECTOR_NAMES, "powersgd", *VALUE_NAMES, _ENTROPY)


def make_codec(spec: str) -> Codec:
    """The codec that a specification names; SpecError, with what would be right, if there is none.

    `package.module:function` is a plug-in: `function(spec)` returns a `Codec` whose `spec` is that text.
    """
    if FUNCTION.fullmatch(spec) and spec.partition(":")[0] not in STAGE_NAMES:
        return _plug_in(spec)
    stages = list(parse(spec))
    _check(spec, stages)
    if stages[0].name == "none":
        stages[0].expect(0)
        return SparseCodec(spec, None, make_value(Stage("fp32")))
    coded = stages[-1].name == _ENTROPY
    if coded:
        stages.pop().expect(0)
    first = stages[0] if stages and stages[0].name not in VALUE_NAMES else None
    rest = stages[1:] if first else stages
    value = make_value(rest[0] if rest else Stage("fp32"))
    if first is not None and first.name == "powersgd":
        rank = first.expect(1, example="powersgd:4").integer(0, 1, "the rank")
        return LowRankCodec(spec, LowRank(rank), SparseCodec(spec, None, value, coded, Kind.FACTORS))
    return SparseCodec(spec, make_selector(first) if first else None, value, coded)


def _check(spec: str, stages: list[Stage]) -> None:
    """SpecError unless every name is known and in its place."""
    for stage in stages:
        if stage.name == "csr":
            raise SpecError(f"'{spec}': csr is now a plug-in: csr_codec:csr, with 'Bandwidth Analysis' in PYTHONPATH")
        if stage.name not in STAGE_NAMES:
            right = nearest(stage.name, STAGE_NAMES) or f"; known: {', '.join(STAGE_NAMES)}"
            raise SpecError(f"'{spec}': there is no codec stage '{stage.name}'{right}")
        if stage.name == "none" and len(stages) > 1:
            raise SpecError(f"'{spec}': 'none' stands alone")
    places = [_place(stage) for stage in stages]
    if places != sorted(set(places)):
        raise SpecError(f"'{spec}': a codec is at most one each of what to send, value format and zstd, in this order")


def _place(stage: Stage) -> int:
    """0: what to send, 1: how precisely, 2: entropy coding."""
    return 1 if stage.name in VALUE_NAMES else 2 if stage.name == _ENTROPY else 0


def _plug_in(spec: str) -> Codec:
    name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(name), function_name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise SpecError(f"'{spec}': module '{name}' cannot be imported ({error})") from error
        raise SpecError(
            f"'{spec}': there is neither a codec stage nor a module '{error.name}' on the Python path"
            f"{nearest(name, STAGE_NAMES)}"
        ) from None
    except (Exception, SystemExit) as error:  # a script that reads the command line exits
        raise SpecError(f"'{spec}': module '{name}' cannot be imported ({type(error).__name__}: {error})") from error
    if not callable(function):
        raise SpecError(f"'{spec}': module '{name}' has no function '{function_name}'")
    try:
        codec = function(spec)
    except Exception as error:
        raise SpecError(f"'{spec}': {function_name}(spec) fails ({type(error).__name__}: {error})") from error
    if not isinstance(codec, Codec) or codec.spec != spec:
        raise SpecError(
            f"'{spec}': {function_name}(spec) must return a compression.Codec with that spec, not {codec!r}"
        )
    return codec
