"""What to prune, and by whom: the option `--prune`.

METHOD:S[,scope=global|layer][,by=server|client|after][,min=DENSITY][,protect=auto|vectors|none|NAME+NAME...][,NAME=S...]

magnitude:0.9                       the smallest 90 % of all weights, layers in one ranking
magnitude:0.9,scope=layer,min=0.05  90 % of each layer, never more than 95 % of one
snip:0.8,protect=auto+layer1        |g w|; the usual layers and everything under `layer1` stay whole
filters:0.5                         half of the filters (or neurons) of each layer, by their L2 norm
random:0.5,layer4=0.9               `layer4` has a sparsity of its own, outside the common budget
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..spec import SpecError, Stage, nearest, parse_stage

METHODS = ("magnitude", "random", "snip", "gradient", "filters")
SCOPES = ("global", "layer")
BY = ("server", "client", "after")
AUTO = "auto"
VECTORS = "vectors"
_NONE = "none"
_KEYS = ("scope", "by", "min", "protect")


@dataclass(frozen=True)
class Pruning:
    """What `--prune` asks for.

    `method`: one of `METHODS`; `sparsity`, in [0, 1], of all layers that are neither protected nor in `overrides`;
    `scope`: one ranking for all layers, or one for each; `by`: the server, each client, or each client after its local
    training decides; `min_density`: no layer is left with less, in [0, 1]; `protect`: layers that stay whole, by name or
    dotted prefix, `AUTO` and `VECTORS` standing for the usual ones (`choose.protected_layers`); `overrides`: a sparsity of
    their own for layers by name or dotted prefix. A layer that is called like one of the options cannot have one.
    """

    method: str
    sparsity: float
    scope: str = "global"
    by: str = "server"
    min_density: float = 0.0
    protect: tuple[str, ...] = (AUTO,)
    overrides: Mapping[str, float] = field(default_factory=dict)


def parse_pruning(text: str) -> Pruning:
    """Read `--prune`; SpecError, with the nearest right word, for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in METHODS:
        raise SpecError(f"'{text}': there is no pruning method '{stage.name}'{nearest(stage.name, METHODS)}")
    if len(stage.args) != 1:
        raise SpecError(f"'{text}': {stage.name} takes one sparsity, as in {stage.name}:0.9, not {len(stage.args)}")
    pruning = Pruning(
        method=stage.name,
        sparsity=stage.number(0, 0, 1, "the sparsity"),
        scope=_one_of(stage, "scope", SCOPES),
        by=_one_of(stage, "by", BY),
        min_density=stage.option("min", 0, 1) if "min" in stage.options else 0.0,
        protect=_protect(stage),
        overrides={key: _override(stage, key) for key in stage.options if key not in _KEYS},
    )
    for what, sparsity in (("the sparsity", pruning.sparsity), *pruning.overrides.items()):
        check_floor(f"'{text}': {what}", sparsity, pruning.min_density)
    for name in pruning.protect:
        if name in pruning.overrides:
            raise SpecError(f"'{text}': '{name}' is protected and has a sparsity of its own; only one can be meant")
    return pruning


def check_floor(what: str, sparsity: float, min_density: float) -> None:
    """SpecError, beginning with `what`, if a layer of this sparsity is left with less than `min_density`."""
    if sparsity + min_density > 1 + 1e-12:
        raise SpecError(f"{what} must be at most {1 - min_density:g} where min={min_density:g}, not {sparsity:g}")


def _one_of(stage: Stage, key: str, known: tuple[str, ...]) -> str:
    """The named argument `key`, the first of `known` where it is not given."""
    word = stage.options.get(key, known[0])
    if word not in known:
        raise SpecError(f"'{stage}': {key} cannot be '{word}'{nearest(word, known)}")
    return word


def _protect(stage: Stage) -> tuple[str, ...]:
    names = tuple(name.strip() for name in stage.options.get("protect", AUTO).split("+"))
    if names == (_NONE,):
        return ()
    if not all(names) or _NONE in names:
        raise SpecError(
            f"'{stage}': protect must be auto, none, or layers joined by +, not '{stage.options['protect']}'"
        )
    return names


def _override(stage: Stage, name: str) -> float:
    try:
        return stage.option(name, 0, 1)
    except SpecError:
        hint = nearest(name, _KEYS)
        if hint.startswith("; did you mean"):
            raise SpecError(f"'{stage}': there is no option '{name}'{hint}") from None
        raise
