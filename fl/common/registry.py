"""What an option can name, known without importing it: a name and a few facts, and the class only when it is used."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from compression.spec import SpecError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What options ask of a class before it is used. `where`: the class itself, or its place as `module:Class`."""

    where: Any

    def load(self) -> Any:
        """The class, imported now if only its place is known."""
        return load(self.where) if isinstance(self.where, str) else self.where


def load(where: str) -> Any:
    """What `module:name` names."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


class Registry(dict[str, T]):
    """Entries by name, in the order of help texts and tables.

    An unknown name is a SpecError with the nearest known one; `what` says in words what they are.
    """

    def __init__(self, what: str, entries: Mapping[str, T]) -> None:
        super().__init__(entries)
        self._what = what

    def __missing__(self, name: str) -> T:
        raise SpecError(f"'{name}' is no {self._what}{nearest(name, self)}")
