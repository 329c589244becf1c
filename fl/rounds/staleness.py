"""How much the update of a client counts that started from an older version of the model."""

from dataclasses import dataclass
from functools import lru_cache

from compression.spec import SpecError, nearest, parse_stage

_KNOWN = {"constant": 0, "poly": 1, "hinge": 2}  # name: arguments
_LARGEST = 1e6


@dataclass(frozen=True)
class Staleness:
    """A staleness function: its name, and A and B where it has them."""

    name: str
    a: float = 0.0
    b: float = 0.0


@lru_cache
def parse_staleness(text: str) -> Staleness:
    """Read `constant`, `poly:A` or `hinge:A,B`, A and B at least 0; SpecError otherwise."""
    stage = parse_stage(text)
    if stage.name not in _KNOWN:
        raise SpecError(f"there is no staleness function '{stage.name}'{nearest(stage.name, _KNOWN)}")
    stage.expect(_KNOWN[stage.name])
    return Staleness(stage.name, *(stage.number(i, 0, _LARGEST, "AB"[i]) for i in range(len(stage.args))))


def weight(text: str, staleness: int) -> float:
    """The weight in [0, 1] of an update `staleness` versions old (0: made from the version of the moment).

    `constant` 1; `poly:A` (s + 1)^-A; `hinge:A,B` 1 if s <= B, else 1 / (A (s - B) + 1): the functions of FedAsync
    (Xie, Koyejo and Gupta 2019, section 5.2). SpecError as in `parse_staleness`; ValueError if `staleness` is negative.
    """
    if staleness < 0:
        raise ValueError(f"staleness must be a number of versions, at least 0, not {staleness}")
    function = parse_staleness(text)
    if function.name == "poly":
        return float((staleness + 1.0) ** -function.a)
    if function.name == "hinge" and staleness > function.b:
        return 1 / (function.a * (staleness - function.b) + 1)
    return 1.0
