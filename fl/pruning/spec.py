"""What to prune, and by whom: the option `--prune`.

METHOD:S[,scope=global|layer][,by=server|client|after][,min=DENSITY][,protect=auto|vectors|none|NAME+NAME...][,NAME=S...]
        [,mean=holders|cohort][,rewind]
structured:S[,score=l2|l1|gradient]...   width:R[,shift=static|rolling]
prunefl:S[,every=K][,adjust=F][,size=fixed|adaptive]...

magnitude:0.9                       the smallest 90 % of all weights, layers in one ranking
magnitude:0.9,scope=layer,min=0.05  90 % of each layer, never more than 95 % of one
snip:0.8,protect=auto+layer1        |g w|; the usual layers and everything under `layer1` stay whole
filters:0.5                         half of the filters (or neurons) of each layer, by their L2 norm
random:0.5,layer4=0.9               `layer4` has a sparsity of its own, outside the common budget
structured:0.4                      clients train a smaller dense model, without 40 % of the channels of each layer
width:0.5,shift=rolling             a smaller dense model with half of the channels, another half every round
magnitude:0.9,rewind                every new mask begins with the weights of the run's beginning (lottery ticket)
magnitude:0,mean=cohort             clients that lack a coordinate count as such that leave it as it is
prunefl:0.9,every=20,adjust=0.3     every 20 rounds 30 % of the weights held may go, and others come back
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from compression.spec import SpecError, Stage, nearest, parse_stage

WEIGHT_SCORES = ("magnitude", "random", "filters")
"""Methods that go by the weights alone; `score.weight_scores` has them."""
METHODS = (*WEIGHT_SCORES, "snip", "gradient", "structured", "width", "prunefl")
SMALLER = ("structured", "width")  # clients train a smaller dense model
SCOPES = ("global", "layer")
BY = ("server", "client", "after")
SCORES = ("l2", "l1", "gradient")
SHIFTS = ("static", "rolling")
SIZES = ("fixed", "adaptive")
MEANS = ("holders", "cohort")
REWIND = "rewind"
AUTO = "auto"
VECTORS = "vectors"
_NONE = "none"
_KEYS = {
    "filters": ("by", "protect", "mean", REWIND),
    "structured": ("by", "protect", "score", "mean", REWIND),
    "width": ("shift", "mean"),
    "prunefl": ("min", "protect", "every", "adjust", "size"),
}
_USUAL = ("scope", "by", "min", "protect", "mean", REWIND)


@dataclass(frozen=True)
class Pruning:
    """What `--prune` asks for.

    `method`: one of `METHODS`; `sparsity`, in [0, 1], of all layers that are neither protected nor in `overrides`; `scope`:
    one ranking for all layers, or one for each; `by`: the server, each client, or each client after its local training
    decides; `min_density`: no layer is left with less, in [0, 1]; `protect`: layers that stay whole, by name or dotted
    prefix, `AUTO` and `VECTORS` standing for the usual ones (`choose.protected_layers`); `overrides`: a sparsity of their
    own for layers by name or dotted prefix. A layer that is called like one of the options cannot have one. `width:R` has
    the sparsity 1 - R of the channels of each layer, as `structured` has S. `score`: how channels of `structured` are
    scored. `shift`: whether the window of `width` moves. `every`, `adjust`, `size`: of `prunefl`, rounds between two masks,
    the fraction of the weights held that may go at one, and whether their number stays. `mean`: of a coordinate that not
    all clients hold, over its holders or over all clients of the round. `rewind`: with every new mask the weights go back
    to those of the run's beginning.
    """

    method: str
    sparsity: float
    scope: str = "global"
    by: str = "server"
    min_density: float = 0.0
    protect: tuple[str, ...] = (AUTO,)
    overrides: Mapping[str, float] = field(default_factory=dict)
    score: str = "l2"
    shift: str = "static"
    every: int = 10
    adjust: float = 0.3
    size: str = "fixed"
    mean: str = "holders"
    rewind: bool = False
    text: str = field(default="", compare=False)  # as the user wrote it


def parse_pruning(text: str) -> Pruning:
    """Read `--prune`; SpecError, with the nearest right word, for what cannot be meant."""
    stage = parse_stage(text, (REWIND,))
    if stage.name not in METHODS:
        raise SpecError(f"'{text}': there is no pruning method '{stage.name}'{nearest(stage.name, METHODS)}")
    what = "fraction to keep" if stage.name == "width" else "sparsity"
    if len(stage.args) != 1:
        raise SpecError(f"'{text}': {stage.name} takes one {what}, as in {stage.name}:0.9, not {len(stage.args)}")
    number = stage.number(0, 0, 1, f"the {what}")
    if stage.name in SMALLER and (number == 0 if stage.name == "width" else number == 1):
        raise SpecError(f"'{text}': no channel would be left; use a value between 0 and 1")
    known = _KEYS.get(stage.name, _USUAL)
    if stage.flags and REWIND not in known:
        raise SpecError(f"'{text}': {stage.name} has no option '{REWIND}'; its own are {', '.join(known)}")
    pruning = Pruning(
        method=stage.name,
        sparsity=1 - number if stage.name == "width" else number,
        scope=_one_of(stage, "scope", SCOPES),
        by=_one_of(stage, "by", BY),
        min_density=stage.option("min", 0, 1) if "min" in stage.options else 0.0,
        protect=_protect(stage),
        overrides={key: _override(stage, key, known) for key in stage.options if key not in known},
        score=_one_of(stage, "score", SCORES),
        shift=_one_of(stage, "shift", SHIFTS),
        every=_whole(stage, "every", 10),
        adjust=stage.option("adjust", 0, 1) if "adjust" in stage.options else 0.3,
        size=_one_of(stage, "size", SIZES),
        mean=_one_of(stage, "mean", MEANS),
        rewind=REWIND in stage.flags,
        text=text,
    )
    if stage.name == "structured" and pruning.by == "after":
        raise SpecError(
            f"'{text}': what is pruned after training has trained whole; filters:{number:g},by=after does that"
        )
    if stage.name in ("filters", "width", "prunefl") and pruning.overrides:
        raise SpecError(
            f"'{text}': {stage.name} treats every layer alike; '{next(iter(pruning.overrides))}' cannot differ"
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


def _whole(stage: Stage, key: str, usual: int) -> int:
    """The named argument `key`, a whole number of at least 1."""
    text = stage.options.get(key, str(usual))
    if not text.isdigit() or int(text) < 1:
        raise SpecError(f"'{stage}': {key} must be a whole number of at least 1, not '{text}'")
    return int(text)


def _override(stage: Stage, name: str, known: tuple[str, ...]) -> float:
    if name in {*_USUAL, "score", "shift", "every", "adjust", "size"}:
        raise SpecError(f"'{stage}': {stage.name} has no option '{name}'; its own are {', '.join(known)}")
    try:
        return stage.option(name, 0, 1)
    except SpecError:
        hint = nearest(name, known)
        if hint.startswith("; did you mean"):
            raise SpecError(f"'{stage}': there is no option '{name}'{hint}") from None
        raise
