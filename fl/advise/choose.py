"""Which pair of codecs gets a run forward soonest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from fl.clock.profiles import Profile

from .links import slowest_s
from .measure import Measured

MOST_ROUNDS = 2.0
"""A pair that would need more rounds than so many times those of a dense run is not advised: no committed experiment has
shown that it ends there (docs/advise.md)."""
CLOSE = 1.05
"""Pairs within so much of the fastest count as equally fast: their times are no more exact than that."""


@dataclass(frozen=True)
class Pair:
    """A codec up and one down, with this error feedback.

    `round_s`: seconds of a whole round; `rounds`: how many it takes for one without compression; `borne_out`: whether runs
    have shown that it takes about so many. Those of low-rank codecs took more (docs/advise.md).
    """

    up: Measured
    down: Measured
    feedback: str
    round_s: float
    rounds: float
    borne_out: bool

    @property
    def seconds(self) -> float:
        """Until what a round without compression does."""
        return self.round_s * self.rounds

    @property
    def specs(self) -> tuple[str, str]:
        """Uplink and downlink."""
        return self.up.cost.spec, self.down.cost.spec

    @property
    def options(self) -> str:
        """As words of a command line."""
        up, down = self.specs
        return f"--uplink {up} --downlink {down} --error-feedback {self.feedback}"


@dataclass(frozen=True)
class Round:
    """What a round takes beside its codecs: links of the clients, how many are in it, and seconds of local training; and
    the error feedback of its codecs."""

    links: tuple[Profile, ...]
    clients: int
    train_s: float
    feedback: str

    def pair(self, up: Measured, down: Measured) -> Pair:
        """A round with these codecs: training, encoding and decoding here, and the client whose transfers take longest.

        The server decodes the updates of all clients, one after another.
        """
        coding = up.cost.encode_s + self.clients * up.cost.decode_s + down.cost.encode_s + down.cost.decode_s
        sending = slowest_s(self.links, up.cost.payload_bytes, down.cost.payload_bytes)
        feedback = "residual" if up.cost.spec == "none" and self.feedback != "none" else self.feedback
        borne_out = not (up.by_shape or down.by_shape)
        return Pair(up, down, feedback, self.train_s + coding + sending, up.rounds * down.rounds, borne_out)

    def pairs(self, ups: Iterable[Measured], downs: Iterable[Measured]) -> list[Pair]:
        """All of them, the fastest first."""
        return sorted((self.pair(*each) for each in product(ups, downs)), key=lambda pair: pair.seconds)


def recommend(pairs: Sequence[Pair], most_rounds: float = MOST_ROUNDS) -> Pair:
    """Of the pairs within `CLOSE` of the fastest that may be advised, the one with the fewest rounds, and then bytes."""
    able = [pair for pair in pairs if pair.borne_out and pair.rounds <= most_rounds]
    fastest = min(pair.seconds for pair in able)
    near = [pair for pair in able if pair.seconds <= CLOSE * fastest]
    return min(near, key=lambda pair: (pair.rounds, pair.up.cost.payload_bytes + pair.down.cost.payload_bytes))


def best_by_uplink(pairs: Sequence[Pair]) -> list[Pair]:
    """The fastest pair with each uplink, the fastest first, of those that may be advised."""
    found: dict[str, Pair] = {}
    for pair in pairs:
        if pair.rounds <= MOST_ROUNDS:
            found.setdefault(pair.up.cost.spec, pair)
    return list(found.values())


def front(found: Sequence[Measured]) -> list[Measured]:
    """Those that no other one beats in bytes and in rounds, to two decimals: the Pareto front, most bytes first."""

    costs = {one.cost.spec: (one.cost.payload_bytes, float(f"{one.rounds:.2f}")) for one in found}

    def beaten(one: Measured) -> bool:
        size, rounds = mine = costs[one.cost.spec]
        return any(other != mine and other[0] <= size and other[1] <= rounds for other in costs.values())

    return sorted((one for one in found if not beaten(one)), key=lambda one: -one.cost.payload_bytes)
