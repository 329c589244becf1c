"""A finished run's model for use elsewhere: exact, compressed, in integers, or smaller (docs/export.md). No pickle.
Imports `models`, `data`, `training` and `common`."""

from .load import KINDS, load, load_small
from .structure import Structure, read_structure
from .write import export_run

__all__ = ["KINDS", "Structure", "export_run", "load", "load_small", "read_structure"]
