"""What a GPU was asked to do, and when the host waited for it."""

import contextlib
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_OWN = (f"{ROOT / 'fl'}/", f"{ROOT / 'compression'}/")


@dataclass
class Seen:
    """In all the times that a region was entered: kernels launched, and waits of the host by kind and line."""

    times: int = 0
    kernels: int = 0
    waits: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return "\n".join(f"{count:5} {what}" for what, count in self.waits.most_common())


class Recorder:
    """Counts by region; the innermost one counts, in all threads."""

    def __init__(self) -> None:
        self.regions: dict[str, Seen] = defaultdict(Seen)
        self._stack = ["elsewhere"]

    @contextlib.contextmanager
    def region(self, name: str) -> Iterator[Seen]:
        """What happens in this block happens during `name`."""
        self._stack.append(name)
        seen = self.regions[name]
        seen.times += 1
        try:
            yield seen
        finally:
            self._stack.pop()

    def kernel(self) -> None:
        """A kernel is launched."""
        self.regions[self._stack[-1]].kernels += 1

    def wait(self, kind: str, times: int = 1) -> None:
        """The host waits until the GPU has done all that it was asked for."""
        self.regions[self._stack[-1]].waits[f"{kind} at {_line()}"] += times


def _line() -> str:
    """The project's line that is running now."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_OWN):
            return f"{name.removeprefix(f'{ROOT}/')}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "another thread"


recorder = Recorder()
