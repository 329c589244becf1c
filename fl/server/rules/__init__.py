"""The option `--aggregate`: each rule registers itself in its own module, all of which are imported here."""

from compression.spec import parse_stage
from fl.models.state import ModelState

from ..aggregate import Aggregator, Mean, aggregators
from . import clip as _clip
from . import krum as _krum
from . import median as _median

__all__ = ["Aggregator", "Mean", "aggregate_names", "make_aggregator", "parse_aggregate"]

_ = (_clip, _krum, _median)


def parse_aggregate(text: str) -> tuple[type[Aggregator], float]:
    """Read `--aggregate`: the rule, and its number if it takes one (else 0); SpecError for what cannot be meant."""
    stage = parse_stage(text)
    kind = aggregators[stage.name]
    stage.expect(1 if kind.argument else 0)
    return kind, kind.read(stage) if kind.argument else 0.0


def make_aggregator(text: str, state: ModelState, *, apart: bool = False, damped: bool = False) -> Aggregator:
    """The rule that `text` names; for `apart` and `damped` see `Mean`. SpecError for one that cannot be read."""
    kind, number = parse_aggregate(text)
    return kind(state, number, apart=apart, damped=damped)


def aggregate_names() -> list[str]:
    """How each rule is written, as in trimmed:F."""
    arguments = {name: aggregators[name].argument for name in aggregators}
    return [f"{name}:{argument}" if argument else name for name, argument in arguments.items()]
