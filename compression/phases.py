"""What a process is at: each part of a round marks its own phase, and whoever listens is told.

As long as nobody listens, a mark takes less than a microsecond.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal, Protocol, get_args

PhaseName = Literal[
    "data",
    "forward",
    "backward",
    "optimizer",
    "select",
    "code",
    "transfer",
    "decode",
    "server",
    "evaluation",
    "checkpoint",
]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)


class Listener(Protocol):
    """Is told of phases. An inner phase interrupts the one around it."""

    def enter(self, name: PhaseName) -> None:
        """A phase begins."""

    def leave(self) -> None:
        """The innermost phase ends."""


_listener: Listener | None = None


class phase(contextlib.ContextDecorator):
    """Marks a block, or a function that it decorates, as a phase; not a generator, whose caller runs in between."""

    def __init__(self, name: PhaseName) -> None:
        self._name = name

    def __enter__(self) -> None:
        if _listener is not None:
            _listener.enter(self._name)

    def __exit__(self, *_: object) -> None:
        if _listener is not None:
            _listener.leave()


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """In this block, outside all phases, `listener` is told of those of the whole process."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
