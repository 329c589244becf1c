"""Signs of life that ranks give each other, so that one that hangs, is stopped or is gone ends the run in a sentence.

Every rank has a thread that writes how far its work is into the store of the process group, and reads the same of the
others; another one watches what comes. Collective operations cannot tell a rank that hangs from one that has much to do.
"""

import contextlib
import logging
import os
import threading
import time

import torch.distributed as dist

from .errors import RoundError
from .progress import work
from .stopping import stopping, write_line

_PAUSE_S = 1.0
_MANY_RANKS = 64  # more of them beat less often: each reads the signs of all
_COMPUTES = 0.02  # of the time, at least; the threads here need less
_VERDICT = "!"
_LEFT = "left"


class Heart:
    """The signs of life of this rank, and what is heard of the others, until `stop`.

    The process ends, with exit status 2, when for `timeout_s` seconds one rank gave no sign of life, the store did not
    answer, or, during rounds, no rank got any further.
    """

    def __init__(self, store: dist.Store, rank: int, world_size: int, keeper: str, timeout_s: float) -> None:
        """Give the first sign of life. `keeper`: who has the store, for messages."""
        self._store = store.clone()  # type: ignore[attr-defined] # a connection of its own: requests wait for one another
        self._rank = rank
        self._ranks = range(world_size)
        self._keeper = keeper
        self._timeout_s = timeout_s
        self._pause_s = min(_PAUSE_S * max(1.0, world_size / _MANY_RANKS), timeout_s / 8)
        self._heard = [""] * world_size
        self._beats = 0
        self._computed_s = (0.0, 0.0)  # wall and processor time at the last sign
        self._verdict = ""
        self._over = threading.Event()
        self._lost = False
        self._beating = threading.Thread(target=self._beat, name="heart", daemon=True)
        self._store.set(f"heart_{rank}", self._sign())

    def start(self) -> None:
        """Begin; every rank has given its first sign of life."""
        self._beating.start()
        threading.Thread(target=self._watch, name="heart's watch", daemon=True).start()

    def stop(self) -> None:
        """This rank leaves, and nobody waits for signs of it."""
        self._over.set()
        self._beating.join(2 * self._pause_s)
        if not self._lost and not self._beating.is_alive():
            with contextlib.suppress(dist.DistNetworkError):
                self._store.set(f"heart_{self._rank}", _LEFT)

    def explained(self, error: Exception) -> Exception:
        """A RoundError that names the rank that is gone, if a broken connection is what `error` is about; else `error`."""
        # gloo's errors have no type of their own
        if not isinstance(error, dist.DistError) and not (isinstance(error, RuntimeError) and "gloo" in str(error)):
            return error
        suspects = self._others()
        self._pause(2)  # until the last sign of the rank that is gone has come
        before = list(self._heard)
        self._pause(4)
        if not stopping.status:
            suspects = [rank for rank in suspects if self._heard[rank] in (before[rank], _LEFT)]
        known = len(suspects) == 1 or (suspects and not stopping.status)
        who = self._keeper if self._lost else self._named(suspects, before) if known else "another rank"
        return RoundError(f"the connection to {who} is broken; {stopping.remedy}")

    def _pause(self, beats: int) -> None:
        """For so many beats, unless a signal came: a launcher that ends this rank knows what has happened, and waits."""
        end = time.monotonic() + beats * self._pause_s
        while time.monotonic() < end and not stopping.status:
            time.sleep(0.1)

    def _others(self) -> list[int]:
        return [rank for rank in self._ranks if rank != self._rank]

    def _named(self, ranks: list[int], heard: list[str]) -> str:
        """These ranks and the clients that they train."""
        doing = [heard[rank].partition(" ")[2].partition(" ")[2] for rank in ranks]
        return ", ".join(
            f"rank {rank} ({what})" if what else f"rank {rank}" for rank, what in zip(ranks, doing, strict=True)
        )

    def _sign(self) -> str:
        """Beats, steps, and what this rank is doing; a rank that has given up says why instead."""
        self._beats += 1
        (wall_s, computed_s), self._computed_s = self._computed_s, (time.monotonic(), time.process_time())
        computes = self._computed_s[1] - computed_s > _COMPUTES * (self._computed_s[0] - wall_s)
        # Outside of rounds is much that is not counted, such as a download or figures.
        if not stopping.in_rounds or (work.is_first_round and computes):
            work.steps += 1
        return f"{_VERDICT}{self._verdict}" if self._verdict else f"{self._beats} {work.steps} {work.doing}"

    def _beat(self) -> None:
        """Tell and ask. A request to a process that is stopped does not return."""
        names = [f"heart_{rank}" for rank in self._ranks]
        try:
            while not self._over.wait(self._pause_s):
                self._store.set(names[self._rank], self._sign())
                self._heard = [sign.decode() for sign in self._store.multi_get(names)]
        except dist.DistNetworkError:
            self._lost = True

    def _watch(self) -> None:
        """Time that this process was stopped itself, or the whole machine, does not count."""
        before, silent_s, still_s, then = list(self._heard), [0.0] * len(self._ranks), 0.0, time.monotonic()
        while not self._over.wait(self._pause_s):
            now, heard = time.monotonic(), self._heard
            passed_s, then = min(now - then, 2 * self._pause_s), now
            verdicts = [sign[1:] for sign in heard if sign.startswith(_VERDICT)]
            if verdicts:
                self._end(verdicts[0])
            for rank in self._ranks:
                same = heard[rank] == before[rank] and heard[rank] != _LEFT
                silent_s[rank] = silent_s[rank] + passed_s if same else 0.0
            still = [sign.split(" ")[1:2] for sign in heard] == [sign.split(" ")[1:2] for sign in before]
            still_s = still_s + passed_s if still else 0.0
            before = heard
            silent = [rank for rank in self._others() if silent_s[rank] >= self._timeout_s]
            if silent_s[self._rank] >= self._timeout_s:
                self._decide(self._keeper)
            elif silent:
                self._decide(self._named(silent, heard))
            elif still_s >= self._timeout_s:
                busy = [rank for rank in self._ranks if heard[rank].partition(" ")[2].partition(" ")[2]]
                self._decide(self._named(busy or list(self._ranks), heard))

    def _decide(self, who: str) -> None:
        self._verdict = f"no progress of {who} for {self._timeout_s:g} s, which is --hang-timeout"
        self._over.wait(3 * self._pause_s)  # the others hear it
        self._end(self._verdict)

    def _end(self, verdict: str) -> None:
        sentence = f"{verdict}; {stopping.remedy}"
        log = logging.getLogger("leanfed")
        if log.handlers:  # rank 0, in a run
            log.error("%s", sentence)
        write_line(f"error: {sentence}")
        os._exit(2)
