"""The algorithm that `--algorithm` asks for."""

import torch

from compression.layout import Layout

from .base import Algorithm
from .feddyn import FedDyn
from .fednova import FedNova
from .fedprox import FedProx
from .scaffold import Scaffold
from .spec import parse_algorithm


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
