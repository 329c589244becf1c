"""The speed of a link below which one run is sooner at the target than another.

With a link of b bits/s both ways, alike for all clients, rounds that wait for their slowest client take until the target

    T(b) = C + 8 D / b,

where C adds up, over the rounds until then, the seconds of the client that computes longest and 2 latencies, and D the
bytes, up and down, of the client that transfers most. (If one client computes longest and another transfers most, that is
a little too long: the sum of the largest is at least the largest sum.) Two runs A and B take equally long where
C_A + 8 D_A / b = C_B + 8 D_B / b, that is at

    b = 8 (D_A - D_B) / (C_B - C_A).

If that is positive, the run with fewer bytes is sooner below b and the other one above; if not, one of them has no more of
either and is sooner on every link.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from .runs import Compared


@dataclass(frozen=True)
class Cost:
    """What a run needs to the target: C in seconds, and D in bytes."""

    seconds: float
    link_bytes: int

    def at(self, bits_per_s: float) -> float:
        """T(b) in seconds."""
        return self.seconds + 8 * self.link_bytes / bits_per_s


@dataclass(frozen=True)
class BreakEven:
    """`fewer` sends fewer bytes than `other` (or as many, and computes no longer); `bits_per_s`, below which it is
    sooner, is None if it always is."""

    fewer: str
    other: str
    bits_per_s: float | None
    same: bool = False

    def words(self) -> str:
        """One sentence."""
        if self.same:
            return f"{self.fewer} and {self.other} take equally long on every link"
        if self.bits_per_s is None:
            return f"{self.fewer} is sooner than {self.other} on every link"
        mbit = self.bits_per_s / 1e6
        return f"{self.fewer} is sooner than {self.other} below {mbit:,.4g} Mbit/s, and later above"


def cost_to(run: Compared, target: float, latency_s: float) -> Cost | None:
    """C and D of a run; None if it does not reach the target, or has no such rounds."""
    at = run.reach(target)
    if at is None or run.costs is None:
        return None
    costs = run.costs[: int(run.rounds[at])]
    return Cost(sum(each.compute_s + 2 * latency_s for each in costs), sum(each.link_bytes for each in costs))


def break_even(name_a: str, a: Cost, name_b: str, b: Cost) -> BreakEven:
    """Of two runs; see the module."""
    if (b.link_bytes, b.seconds) < (a.link_bytes, a.seconds):
        name_a, a, name_b, b = name_b, b, name_a, a
    if a == b:
        return BreakEven(name_a, name_b, None, same=True)
    if a.seconds <= b.seconds or a.link_bytes == b.link_bytes:
        return BreakEven(name_a, name_b, None)
    return BreakEven(name_a, name_b, 8 * (b.link_bytes - a.link_bytes) / (a.seconds - b.seconds))


def all_pairs(runs: Sequence[Compared], target: float, latency_s: float) -> list[BreakEven]:
    """Every two of the runs that reach the target."""
    known = [(run.name, cost) for run in runs if (cost := cost_to(run, target, latency_s)) is not None]
    return [break_even(name_a, a, name_b, b) for (name_a, a), (name_b, b) in combinations(known, 2)]
