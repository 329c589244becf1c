"""Specifications of codecs: `none`, `[dct:B+][SELECTOR+]FORMAT[+zstd]`, `powersgd:RANK[+FORMAT][+zstd]`, or a plug-in.

What can be said of a codec is read here from the text alone, without torch; `make` makes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .spec import FUNCTION, SpecError, Stage, nearest, parse

if TYPE_CHECKING:
    from .codec import Codec

_ENTROPY = "zstd"
_LOW_RANK = "powersgd"
_TRANSFORM = "dct"
_MOST_BLOCK = 4096
MAX_LEVELS = 127
# Those of FedPrune-Sparse's cost-weighted sparsifier, which asks five times as much of a fully connected weight as of
# any other; it ranks within each tensor, where one cost for all changes nothing. Here the budget is common to all tensors.
DEFAULT_COSTS: Mapping[str, float] = {"conv": 1.0, "linear": 5.0, "norm": 1.0, "bias": 1.0}


@dataclass(frozen=True)
class CodecSpec:
    """A specification that is right, and what is true of its codec (see `Codec`). `selector` None: every coordinate.
    `block`: of a cosine transform, 0 without."""

    spec: str
    selector: Stage | None
    value: Stage
    coded: bool = False
    rank: int | None = None
    density: float | None = None
    block: int = 0

    @property
    def sparse(self) -> bool:
        """Whether it leaves coordinates out."""
        return self.selector is not None and not self.block

    @property
    def warm(self) -> bool:
        """Whether it wants something of the last message at the next one."""
        return self.rank is not None

    @property
    def by_shape(self) -> bool:
        """Whether it codes tensors by their shapes."""
        return self.rank is not None


def read_codec(spec: str) -> "CodecSpec | Codec":
    """What a specification says; SpecError, with what would be right, if it says nothing.

    Of `package.module:function`, a plug-in, only the codec itself tells.
    """
    if FUNCTION.fullmatch(spec) and spec.partition(":")[0] not in STAGE_NAMES:
        from .plugin import plug_in

        return plug_in(spec, STAGE_NAMES)
    stages = list(parse(spec))
    _check(spec, stages)
    if stages[0].name == "none":
        stages[0].expect(0)
        return CodecSpec(spec, None, Stage("fp32"))
    coded = stages[-1].name == _ENTROPY
    if coded:
        stages.pop().expect(0)
    block = 0
    if stages and stages[0].name == _TRANSFORM:
        stage = stages.pop(0).expect(1, example="dct:64")
        block = stage.integer(0, 2, "the block")
        if block > _MOST_BLOCK:
            raise SpecError(f"'{stage}': the block must have at most {_MOST_BLOCK} coordinates, not {block}")
    first = stages[0] if stages and stages[0].name not in VALUE_NAMES else None
    rest = stages[1:] if first else stages
    value = rest[0] if rest else Stage("fp32")
    read_value(value)
    if first is not None and first.name == _LOW_RANK:
        if block:
            raise SpecError(f"'{spec}': {_LOW_RANK} codes matrices, and dct flat vectors: take one of them")
        rank = first.expect(1, example="powersgd:4").integer(0, 1, "the rank")
        return CodecSpec(spec, None, value, coded, rank=rank)
    density = read_selector(first).get("density") if first else None
    return CodecSpec(spec, first, value, coded, density=density, block=block)


def read_value(stage: Stage) -> int:
    """The parameter of a value format, 0 if it has none; SpecError if it is wrong, or if there is no such format."""
    if stage.name not in VALUE_NAMES:
        raise SpecError(f"'{stage}': no value format '{stage.name}'{nearest(stage.name, VALUE_NAMES)}")
    if stage.name != "qsgd":
        stage.expect(0)
        return 0
    levels = stage.expect(1, example="qsgd:127").integer(0, 1, "levels")
    if levels > MAX_LEVELS:
        raise SpecError(f"'{stage}': levels must be at most {MAX_LEVELS}, not {levels}")
    return levels


def read_selector(stage: Stage) -> dict[str, Any]:
    """The arguments of the selector's class; SpecError if they are wrong, or if there is no such selector."""
    if stage.name not in _SELECTORS:
        raise SpecError(f"'{stage}': there is no selector '{stage.name}'{nearest(stage.name, SELECTOR_NAMES)}")
    return _SELECTORS[stage.name](stage)


def _topk(stage: Stage) -> dict[str, Any]:
    stage.expect(1, ("scope", "chunk"), example="topk:0.01")
    return {
        "density": _density(stage),
        "per_layer": _per_layer(stage),
        "chunk": stage.integer("chunk", 2, "chunk") if "chunk" in stage.options else None,
    }


def _prune(stage: Stage) -> dict[str, Any]:
    stage.expect(1, ("scope",), example="prune:0.99")
    return {"density": 1 - stage.number(0, 0, 1, "the sparsity"), "per_layer": _per_layer(stage)}


def _threshold(stage: Stage) -> dict[str, Any]:
    return {"threshold": stage.expect(1, example="threshold:0.001").number(0, 1e-38, 1e38, "the threshold")}


def _randk(stage: Stage) -> dict[str, Any]:
    return {"density": _density(stage.expect(1, example="randk:0.1"))}


def _cost(stage: Stage) -> dict[str, Any]:
    stage.expect(1, DEFAULT_COSTS, example="cost:0.01")
    return {"density": _density(stage), "costs": {kind: _cost_of(stage, kind) for kind in stage.options}}


def _density(stage: Stage) -> float:
    return stage.number(0, 1e-9, 1, "the kept fraction")


def _per_layer(stage: Stage) -> bool:
    scope = stage.options.get("scope", "global")
    if scope not in ("global", "layer"):
        raise SpecError(f"'{stage}': scope must be global or layer, not '{scope}'")
    return scope == "layer"


def _cost_of(stage: Stage, kind: str) -> float:
    value = stage.option(kind, 1e-3, 1e3)
    if round(value * 1000) / 1000 != value:
        raise SpecError(f"'{stage}': {kind} must have at most three decimals, not {stage.options[kind]}")
    return value


_SELECTORS: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "topk": _topk,
    "prune": _prune,
    "threshold": _threshold,
    "randk": _randk,
    "cost": _cost,
}
SELECTOR_NAMES = tuple(_SELECTORS)
VALUE_NAMES = ("fp32", "fp16", "bf16", "int8", "int4", "log4", "log3", "log2", "sign", "qsgd")
STAGE_NAMES = ("none", _TRANSFORM, *SELECTOR_NAMES, _LOW_RANK, *VALUE_NAMES, _ENTROPY)


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
        raise SpecError(
            f"'{spec}': a codec is at most one each of dct, what to send, value format and zstd, in this order"
        )


def _place(stage: Stage) -> int:
    """0: the transform, 1: what to send, 2: how precisely, 3: entropy coding."""
    return 2 if stage.name in VALUE_NAMES else {_TRANSFORM: 0, _ENTROPY: 3}.get(stage.name, 1)
