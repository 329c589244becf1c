"""Codecs by specification: `none`, `[SELECTOR+]FORMAT[+zstd]`, `powersgd:RANK[+FORMAT][+zstd]`, or `csr`."""

from .codec import Codec, CsrCodec, LowRankCodec, SparseCodec
from .lowrank import LowRank
from .select import SELECTOR_NAMES, make_selector
from .spec import SpecError, Stage, closest, parse
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


def make_codec(spec: str) -> Codec:
    """The codec that a specification names; SpecError, with the nearest right specification, if there is none."""
    stages = list(parse(spec))
    _check_names(spec, stages)
    _check_order(spec, stages)
    _check_numbers(spec, stages)
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


def _place(stage: Stage) -> int:
    """0: what to send, 1: how precisely, 2: entropy coding."""
    return 1 if stage.name in VALUE_NAMES else 2 if stage.name == _ENTROPY else 0


def _check_names(spec: str, stages: list[Stage]) -> None:
    for at, stage in enumerate(stages):
        if stage.name not in STAGE_NAMES:
            close = closest(stage.name, STAGE_NAMES)
            right = [*stages[:at], Stage(close, stage.args, stage.options), *stages[at + 1 :]] if close else []
            hint = f"; did you mean '{_join(right)}'?" if right else f"; known: {', '.join(STAGE_NAMES)}"
            raise SpecError(f"'{spec}': there is no codec stage '{stage.name}'{hint}")


def _check_numbers(spec: str, stages: list[Stage]) -> None:
    for at, stage in enumerate(stages):
        if stage.name in _USUAL and not stage.args:
            right = [*stages[:at], Stage(stage.name, (_USUAL[stage.name],), stage.options), *stages[at + 1 :]]
            raise SpecError(f"'{spec}': '{stage.name}' needs a number; did you mean '{_join(right)}'?")


def _check_order(spec: str, stages: list[Stage]) -> None:
    for stage in stages:
        if stage.name in _ALONE and len(stages) > 1:
            others = [other for other in stages if other.name not in _ALONE]
            instead = f"; did you mean '{_join(others)}'?" if others else ""
            raise SpecError(f"'{spec}': '{stage.name}' stands alone{instead}")
    places = [_place(stage) for stage in stages]
    if places != sorted(set(places)):
        best = dict(reversed(list(zip(places, stages, strict=True))))
        right = _join([best[place] for place in sorted(best)])
        raise SpecError(
            f"'{spec}': a codec is at most one each of what to send, value format and zstd, in this order; "
            f"did you mean '{right}'?"
        )


def _join(stages: list[Stage]) -> str:
    return "+".join(str(stage) for stage in stages)
