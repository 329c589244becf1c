"""Pruning: which coordinates of a model are held, by a mask over its flat parameter vector.

Words: a mask is bool [n], True where a coordinate is held; density is the held fraction, sparsity 1 - density. Every
function is deterministic and works on the flat vector with a `Layout`, on CPU and CUDA.
"""

from . import score
from .choose import Budget, budgets, choose_mask, protected_layers, sparsity_by_layer
from .schedule import changes_at, parse_prune_schedule, pruning_at, sparsity_at
from .spec import Pruning, parse_pruning

__all__ = [
    "Budget",
    "Pruning",
    "budgets",
    "changes_at",
    "choose_mask",
    "parse_prune_schedule",
    "parse_pruning",
    "protected_layers",
    "pruning_at",
    "score",
    "sparsity_at",
    "sparsity_by_layer",
]
