"""`--profile`: the seconds of each phase of every round, and a trace of two rounds by PyTorch's profiler."""

import contextlib
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from compression.phases import PHASES, PhaseName, listening
from fl.common.files import written_whole
from fl.common.ranks import Ranks
from fl.common.terminal import try_to_write
from fl.output.record import OTHER, PHASE_TIMES

_TRACED = 2
_WHOLE = 100
_MOST = 20_000


class Profile:
    """The profile of the rounds that this process runs. Without `--profile` (`on`) it does nothing.

    Marks of all threads count: where several are in a phase, time is that of the phase that began last.
    """

    def __init__(self, ranks: Ranks, folder: Path, rounds: range, *, on: bool) -> None:
        """`rounds`: those to be run, which may be fewer in the end."""
        self._ranks = ranks
        self._folder = folder
        self._on = on
        # The first round imports, compiles and allocates, and is like no other.
        self._begins = min(rounds.start + 1, rounds.stop - 1)
        self._ends = self._begins + _TRACED
        self._trace: _Trace | None = None
        self._within: list[tuple[int, str]] = []  # thread and phase, the one that began last at the end
        self._turning = threading.Lock()
        self._seconds, self._since = self._lap(), 0.0
        self._handed_in = torch.zeros(0)

    @contextlib.contextmanager
    def rounds(self) -> Iterator[None]:
        """In this block the rounds are run; a trace ends with it, whatever happens."""
        if not self._on:
            yield
            return
        try:
            with listening(self):
                yield
        finally:
            self._end_trace()

    @contextlib.contextmanager
    def round(self, number: int) -> Iterator[None]:
        """In this block a round is run."""
        if self._on and number == self._begins:
            self._trace = _Trace(self._folder / f"trace-round{number}-rank{self._ranks.rank}.json.gz", self._ranks)
        yield
        if number + 1 == self._ends:
            self._end_trace()

    def _end_trace(self) -> None:
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.stop()
            try_to_write(f"{trace.path}", trace.write, "the run goes on without it")

    def begin(self, now: float) -> None:
        """A round's `time_s` begins."""
        self._seconds, self._since = self._lap(), now

    def enter(self, name: PhaseName) -> None:
        with self._turning:
            self._turn(time.perf_counter())
            self._within.append((threading.get_ident(), name))
        if self._trace is not None:
            self._trace.enter(name)

    def leave(self) -> None:
        if self._trace is not None:
            self._trace.leave()
        with self._turning:
            self._turn(time.perf_counter())
            own = (at for at in reversed(range(len(self._within))) if self._within[at][0] == threading.get_ident())
            del self._within[next(own)]

    def hand_in(self) -> None:
        """Tell rank 0 what this rank's round took. What follows, the checkpoint, all ranks wait for alike. Collective."""
        if self._on:
            self._handed_in = self._ranks.gather(self._take(time.perf_counter()))

    def rows(self, number: int, now: float) -> list[dict[str, float]]:
        """On rank 0: the rows of phases.csv of a round whose `time_s` ends."""
        if not self._on:
            return []
        seconds = self._handed_in + self._take(now)
        return [
            dict(zip(PHASE_TIMES, (number, rank, sum(own), *own), strict=True))
            for rank, own in enumerate(seconds.tolist())
        ]

    def _take(self, now: float) -> Tensor:
        """Seconds by phase since the last time; float64 [phases + 1]."""
        self._turn(now)
        taken, self._seconds = self._seconds, self._lap()
        return torch.tensor(list(taken.values()), dtype=torch.float64, device="cpu")

    def _turn(self, now: float) -> None:
        self._seconds[self._within[-1][1] if self._within else OTHER] += now - self._since
        self._since = now

    @staticmethod
    def _lap() -> dict[str, float]:
        return dict.fromkeys((*PHASES, OTHER), 0.0)


class _Trace:
    """What torch's profiler sees, from now to `stop`, as a file that Perfetto reads.

    It stays small whatever the rounds: it holds the operators of the first hundred of each phase, and ends after 20,000
    phases.
    """

    def __init__(self, path: Path, ranks: Ranks) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it tells stderr that it starts
        from torch.profiler import ProfilerActivity, profile

        cuda = [ProfilerActivity.CUDA] if ranks.device.type == "cuda" else []
        self.path = path
        self._profile = profile(
            activities=[ProfilerActivity.CPU, *cuda],
            experimental_config=torch._C._profiler._ExperimentalConfig(profile_all_threads=True),  # a hook has its own
        )
        self._counts: Counter[PhaseName] = Counter()
        # Of each thread, and whether operators are left out.
        self._open: defaultdict[int, list[tuple[torch.profiler.record_function, bool]]] = defaultdict(list)
        self._is_over = False
        self._profile.start()

    def enter(self, name: PhaseName) -> None:
        if self._is_over:
            return
        self._counts[name] += 1
        mark, left_out = torch.profiler.record_function(name), self._counts[name] > _WHOLE
        torch.autograd._enable_record_function(not left_out)
        mark.__enter__()
        self._open[threading.get_ident()].append((mark, left_out))
        if self._counts.total() > _MOST:
            self.stop()

    def leave(self) -> None:
        if self._is_over:
            return
        own = self._open[threading.get_ident()]
        mark, _ = own.pop()
        mark.__exit__(None, None, None)
        torch.autograd._enable_record_function(not (own and own[-1][1]))

    def stop(self) -> None:
        """The end; once is enough."""
        while self._open[threading.get_ident()]:
            self.leave()
        if not self._is_over:
            self._is_over = True
            self._profile.stop()

    def write(self) -> None:
        """Write the file."""
        with written_whole(self.path) as part:
            packed = part.with_name(f"{part.name}.gz")  # the profiler packs where a name asks for it
            self._profile.export_chrome_trace(str(packed))
            packed.replace(part)
