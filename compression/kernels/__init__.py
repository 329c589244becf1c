"""Triton kernels for what a GPU must do fast; the torch code of the other modules is their reference and fallback.

Every kernel gives exactly the result of the torch code it replaces, bit for bit, so using it is a question of speed
alone. A caller asks first:

    if kernels.available(x.device):
        return kernels.compact(x, thresholds, sizes)

Triton is imported by the first call that runs a kernel, never by `import compression`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .availability import available, switched_off

if TYPE_CHECKING:
    from .adding import accumulate
    from .logarithmic import from_cells, to_cells
    from .packing import pack_bits, pack_fixed, unpack_bits, unpack_fixed
    from .rounding import round_stochastic, uniform
    from .selecting import compact, topk_positions

_MODULES = {
    "accumulate": "adding",
    "compact": "selecting",
    "from_cells": "logarithmic",
    "pack_bits": "packing",
    "pack_fixed": "packing",
    "round_stochastic": "rounding",
    "to_cells": "logarithmic",
    "topk_positions": "selecting",
    "uniform": "rounding",
    "unpack_bits": "packing",
    "unpack_fixed": "packing",
}

__all__ = [
    "accumulate",
    "available",
    "compact",
    "from_cells",
    "pack_bits",
    "pack_fixed",
    "round_stochastic",
    "switched_off",
    "to_cells",
    "topk_positions",
    "uniform",
    "unpack_bits",
    "unpack_fixed",
]


def __getattr__(name: str) -> Any:
    """The kernel of that name, its module imported now (PEP 562): only a machine that has Triton comes here."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
