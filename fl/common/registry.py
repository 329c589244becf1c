"""Classes by the names that an option calls them by."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from compression.spec import SpecError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes that register themselves, in that order; so adding one touches the file of the class alone.

    `what` says in words what they are, for the message about an unknown name.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._classes: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator: `name` is the decorated class from now on."""

        def add(cls: T) -> T:
            self._classes[name] = cls
            return cls

        return add

    def __getitem__(self, name: str) -> T:
        """The class of this name; SpecError with the nearest known name if there is none."""
        if name not in self._classes:
            raise SpecError(f"'{name}' is no {self._what}{nearest(name, self._classes)}")
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)
