"""The option `--aggregate`: the rules by name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compression.spec import SpecError, Stage, parse_stage
from fl.common.registry import Entry, Registry

if TYPE_CHECKING:
    from fl.models.state import ModelState

    from ..aggregate import Aggregator

__all__ = ["Rule", "aggregate_names", "aggregators", "make_aggregator", "parse_aggregate"]


@dataclass(frozen=True)
class Rule(Entry):
    """What options ask of a subclass of `Aggregator`.

    `argument`: what the help text calls the number after the rule's name, if there is one; `read`: that number of a
    specification with one argument, or SpecError. `in_parts`: whether clients may hold different submodels.
    `by_coordinate`: whether a coordinate of the aggregate depends on that coordinate of the updates alone. `fewest`: how
    many updates a round must have, by the number.
    """

    argument: str = ""
    read: Callable[[Stage], float] = lambda stage: 0.0
    in_parts: bool = False
    by_coordinate: bool = False
    fewest: Callable[[float], int] = lambda number: 1


def _trimmed(stage: Stage) -> float:
    fraction = stage.number(0, 0, 0.5, "F")
    if fraction == 0.5:
        raise SpecError(f"'{stage}': F must be below 0.5, which would drop everything; use median")
    return fraction


def _attackers(stage: Stage) -> float:
    return stage.integer(0, 0, "F, the number of clients that may send anything,")


def fewest_of_krum(attackers: float) -> int:
    """The condition of Krum, 2 F + 2 < n, for F `attackers`."""
    return 2 * int(attackers) + 3


aggregators = Registry(
    "rule to aggregate by",
    {
        "mean": Rule("fl.server.aggregate:Mean", in_parts=True, by_coordinate=True),
        "clip": Rule(
            "fl.server.rules.clip:Clip", "NORM", lambda stage: stage.number(0, 1e-12, 1e12, "NORM"), in_parts=True
        ),
        "krum": Rule("fl.server.rules.krum:Krum", "F", _attackers, fewest=fewest_of_krum),
        "multikrum": Rule("fl.server.rules.krum:MultiKrum", "F", _attackers, fewest=fewest_of_krum),
        "median": Rule("fl.server.rules.median:Median", by_coordinate=True),
        "trimmed": Rule("fl.server.rules.median:Trimmed", "F", _trimmed, by_coordinate=True),
    },
)


def parse_aggregate(text: str) -> tuple[Rule, float]:
    """Read `--aggregate`: the rule, and its number if it takes one (else 0); SpecError for what cannot be meant."""
    stage = parse_stage(text)
    rule = aggregators[stage.name]
    stage.expect(1 if rule.argument else 0)
    return rule, rule.read(stage)


def make_aggregator(text: str, state: "ModelState", *, apart: bool = False, damped: bool = False) -> "Aggregator":
    """The rule that `text` names; for `apart` and `damped` see `Mean`. SpecError for one that cannot be read."""
    rule, number = parse_aggregate(text)
    made: Aggregator = rule.load()(state, number, apart=apart, damped=damped)
    return made


def aggregate_names() -> list[str]:
    """How each rule is written, as in trimmed:F."""
    return [f"{name}:{rule.argument}" if rule.argument else name for name, rule in aggregators.items()]
