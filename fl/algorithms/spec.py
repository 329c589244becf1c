"""The option `--algorithm`.

fedavg           federated averaging
fedprox:MU       a spring of strength MU, 0 or more, to the global weights
fednova          updates averaged per local step
scaffold         control variates
feddyn:ALPHA     a spring of strength ALPHA, above 0, and a linear term
"""

from dataclasses import dataclass

from compression.spec import SpecError, Stage, nearest, parse_stage

_MOST = 1e9


@dataclass(frozen=True)
class Kind:
    """What options ask of an algorithm. `strength`: what its number is called, if it takes one, and `least` the smallest;
    `together`: whether every update must arrive in the round it began in, or not at all."""

    strength: str = ""
    least: float = 0.0
    together: bool = False


ALGORITHMS = {
    "fedavg": Kind(),
    "fedprox": Kind("MU"),
    "fednova": Kind(),
    "scaffold": Kind(together=True),
    "feddyn": Kind("ALPHA", 1e-9, together=True),  # it divides by ALPHA
}


def algorithm_names() -> list[str]:
    """How each algorithm is written, as in fedprox:MU."""
    return [f"{name}:{kind.strength}" if kind.strength else name for name, kind in ALGORITHMS.items()]


def parse_algorithm(text: str) -> Stage:
    """Read `--algorithm`; SpecError, with the nearest right word, for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in ALGORITHMS:
        raise SpecError(f"there is no algorithm '{stage.name}'{nearest(stage.name, ALGORITHMS)}")
    kind = ALGORITHMS[stage.name]
    if not kind.strength:
        return stage.expect(0)
    if len(stage.args) != 1:
        raise SpecError(f"'{text}': {stage.name} takes a strength, as in {stage.name}:0.01, not {len(stage.args)}")
    stage.expect(1).number(0, kind.least, _MOST, kind.strength)
    return stage
