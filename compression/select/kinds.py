"""Kinds of layers, and what one coordinate of each costs."""

from collections.abc import Mapping

# Those of FedPrune-Sparse's cost-weighted sparsifier, which asks five times as much of a fully connected weight as of
# any other; it ranks within each tensor, where one cost for all changes nothing. Here the budget is common to all tensors.
DEFAULT_COSTS: Mapping[str, float] = {"conv": 1.0, "linear": 5.0, "norm": 1.0, "bias": 1.0}
KINDS = tuple(DEFAULT_COSTS)


def kind_of(name: str, shape: tuple[int, ...]) -> str:
    """The kind of layer of a parameter: one of `KINDS`.

    Three or more dimensions: conv. Two: linear (fully connected, recurrent, embedding). Else bias where the last part of
    the name says so (`fc.bias`, `lstm.bias_ih_l0`), and norm for everything that is left.
    """
    if len(shape) >= 2:
        return "linear" if len(shape) == 2 else "conv"
    return "bias" if "bias" in name.rpartition(".")[2] else "norm"
