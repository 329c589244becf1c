"""Data sets by name. Imports `common` alone; `Dataset`, `Split` and `load_dataset` are imported when they are first used."""

from typing import TYPE_CHECKING

from compression.lazily import lazily

from .names import DATASETS, check_dataset, is_by_site, is_natural, is_own, is_text

if TYPE_CHECKING:
    from .dataset import Dataset, Split
    from .load import load_dataset
    from .schema import Schema

__all__ = [
    "DATASETS",
    "Dataset",
    "Schema",
    "Split",
    "check_dataset",
    "is_by_site",
    "is_natural",
    "is_own",
    "is_text",
    "load_dataset",
]

__getattr__ = lazily(__name__, Dataset="dataset", Schema="schema", Split="dataset", load_dataset="load")
