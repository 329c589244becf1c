"""The option `--algorithm`.

fedavg           federated averaging
fedprox:MU       a spring of strength MU, 0 or more, to the global weights
fednova          updates averaged per local step
scaffold         control variates
feddyn:ALPHA     a spring of strength ALPHA, above 0, and a linear term
"""

import torch

from compression import Layout
from compression.spec import SpecError, Stage, nearest, parse_stage

from .base import Algorithm
from .feddyn import FedDyn
from .fednova import FedNova
from .fedprox import FedProx
from .scaffold import Scaffold

ALGORITHMS: dict[str, type[Algorithm]] = {
    "fedavg": Algorithm,
    "fedprox": FedProx,
    "fednova": FedNova,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
}
_STRENGTHS = {"fedprox": ("MU", 0.0), "feddyn": ("ALPHA", 1e-9)}  # name and least value; FedDyn divides by ALPHA
_MOST = 1e9


def algorithm_names() -> list[str]:
    """How each algorithm is written, as in fedprox:MU."""
    return [f"{name}:{_STRENGTHS[name][0]}" if name in _STRENGTHS else name for name in ALGORITHMS]


def parse_algorithm(text: str) -> Stage:
    """Read `--algorithm`; SpecError, with the nearest right word, for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in ALGORITHMS:
        raise SpecError(f"there is no algorithm '{stage.name}'{nearest(stage.name, ALGORITHMS)}")
    strength = _STRENGTHS.get(stage.name)
    if strength is None:
        return stage.expect(0)
    name, least = strength
    if len(stage.args) != 1:
        raise SpecError(f"'{text}': {stage.name} takes a strength, as in {stage.name}:0.01, not {len(stage.args)}")
    stage.expect(1).number(0, least, _MOST, name)
    return stage


def algorithm_class(text: str) -> type[Algorithm]:
    """The class of the algorithm that `text` names; SpecError as `parse_algorithm`."""
    return ALGORITHMS[parse_algorithm(text).name]


def make_algorithm(text: str, layout: Layout, device: torch.device, *, clients: int, momentum: float) -> Algorithm:
    """The algorithm for global parameters of this `layout` on `device`.

    `clients`: how many there are in all; `momentum`: that of local SGD. SpecError for a `text` that cannot be read.
    """
    stage = parse_algorithm(text)
    if stage.name == "fedprox":
        return FedProx(layout, float(stage.args[0]))
    if stage.name == "fednova":
        return FedNova(momentum)
    if stage.name == "scaffold":
        return Scaffold(layout, device, clients)
    if stage.name == "feddyn":
        return FedDyn(layout, device, float(stage.args[0]), clients)
    return Algorithm()
