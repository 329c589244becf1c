"""Who takes part in a round: the option `--sampling`.

uniform                 any clients, all alike
samples                 clients with more samples more often: drawn without replacement in proportion to them
power:D                 of D clients drawn by samples those with the largest loss when they last trained; who has not yet
                        comes first. Power-of-choice in its form without further messages (Cho, Wang and Joshi 2020,
                        "Client Selection in Federated Learning", rpow-d)
diurnal:PERIOD,SHARE    any of the clients that are up: each for the fraction SHARE of every PERIOD rounds, from a round of
                        its own; PERIOD may be virtual seconds, as in 86400s
FILE.csv                any of the clients that are up: columns client,first_round,last_round, or client,first_s,last_s in
                        virtual seconds; any number of rows a client

Where too few are up, those that will be soonest fill the places; in virtual time they start when they are up.

Where samples decide who is drawn, those who are count alike in the mean: otherwise large clients would count twice.

With `--dp` every client takes part with one probability, whatever the others do (Poisson sampling), which is what its
epsilon is computed for; then `--clients-per-round` is how many do on average.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.common.client_table import read_lines
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.seeds import derive_seed, numpy_generator

if TYPE_CHECKING:
    from fl.comm.message import ClientReport

_Waits = Callable[[int, float], float]
"""(client, round or second) -> rounds or seconds until it is up."""

_NEVER = 1e15
_COLUMNS = (("client", "first_round", "last_round"), ("client", "first_s", "last_s"))
_FILE = "FILE.csv"
_BY_SAMPLES = ("samples", "power")
_ARGUMENTS = {"uniform": 0, "samples": 0, "power": 1, "diurnal": 2}


def parse_sampling(text: str) -> Stage:
    """Read `--sampling`; the name of a file, which is not opened, is FILE.csv. SpecError for what cannot be meant."""
    if text.endswith(".csv"):
        return Stage(_FILE)
    stage = parse_stage(text)
    if stage.name not in _ARGUMENTS:
        raise SpecError(f"'{text}': there is no sampling '{stage.name}'{nearest(stage.name, (*_ARGUMENTS, _FILE))}")
    stage.expect(_ARGUMENTS[stage.name])
    if stage.name == "power":
        stage.integer(0, 1, "D")
    elif stage.name == "diurnal":
        _period(stage)
        stage.number(1, 0.01, 1, "SHARE")
    return stage


def _period(stage: Stage) -> tuple[float, bool]:
    """PERIOD, and whether it is in virtual seconds."""
    if not stage.args[0].endswith("s"):
        return stage.integer(0, 1, "PERIOD"), False
    seconds = replace(stage, args=(stage.args[0][:-1], *stage.args[1:]))
    return seconds.number(0, 1e-6, 1e12, "PERIOD"), True


def make_sampler(config: Config, samples: Sequence[int]) -> "Sampler":
    """The sampler of a run; ConfigError where it goes by virtual seconds and nothing takes any."""
    assert config.clients is not None
    assert config.clients_per_round is not None
    probability = None if config.dp == "none" else config.clients_per_round / config.clients
    sampler = Sampler(config.sampling, samples, config.seed, probability)
    if sampler.by_time and config.profiles == "none":
        raise ConfigError(f"--sampling {config.sampling} goes by virtual seconds: --profiles must not be none")
    return sampler


def asked(config: Config) -> int:
    """How many clients a round starts."""
    assert config.clients is not None
    assert config.clients_per_round is not None
    return min(config.clients, math.ceil(config.over_select * config.clients_per_round - 1e-9))


def counts_alike(config: Config) -> bool:
    """Whether clients count alike in the mean, because their samples have decided who is drawn.

    Li et al. 2020, "On the Convergence of FedAvg on Non-IID Data", Scheme I; Cho, Wang and Joshi 2020. Where everybody
    takes part nobody is drawn, and clients count by their samples as ever.
    """
    stage = parse_sampling(config.sampling)
    return stage.name in _BY_SAMPLES and asked(config) < (config.clients or 0)


class Sampler:
    """Draws clients as a function of (seed, purpose, number) and of the losses it was told of; the same on every rank.

    `by_time`: who is up depends on virtual seconds, not on rounds. `draws_count`: how many take part is drawn too.

    `samples`: how many each client has. `probability`: with which each takes part, by itself; None: a fixed number does.
    ConfigError for a file that cannot be used.
    """

    def __init__(self, text: str, samples: Sequence[int], seed: int, probability: float | None = None) -> None:
        stage = parse_sampling(text)
        self.draws_count = probability is not None
        self._probability = probability
        import numpy as np  # here, for what reads options alone

        self._samples = np.array(samples, dtype=np.float64)
        self._seed = seed
        self._power = stage.integer(0, 1, "D") if stage.name == "power" else 0
        self._weighted = stage.name in _BY_SAMPLES
        self._waits: _Waits | None = None  # None: everybody is always up
        self.by_time = False
        if stage.name == _FILE:
            self._waits, self.by_time = _trace(Path(text), len(samples))
        elif stage.name == "diurnal":
            period, self.by_time = _period(stage)
            share = float(stage.args[1])
            self._waits = _hours(period, share, seed) if self.by_time else _days(int(period), share, seed)
        self.losses: dict[int, float] = {}
        self.now = 0.0  # virtual seconds
        self._observed: dict[int, float] = {}  # losses of a round that is not committed

    def draw(
        self,
        free: Sequence[int],
        count: int,
        round_: int,
        *,
        now: float = 0.0,
        purpose: str = "cohort",
        number: int = 0,
    ) -> list[int]:
        """`count` of the clients `free`, or all if they are no more, ascending, for `round_` or, by time, for now.

        `purpose` and `number` seed the draw; by default `round_` does. With a probability of its own for each client
        `count` means nothing.
        """
        if self._probability is not None:
            chances = numpy_generator(self._seed, "part", round_).random(len(self._samples))
            return [client for client in sorted(free) if chances[client] < self._probability]
        free = self._up(list(free), count, now if self.by_time else round_)
        if len(free) <= count:
            return sorted(free)
        generator = numpy_generator(self._seed, purpose, round_ if purpose == "cohort" else number)
        if not self._weighted:
            return sorted(generator.choice(free, count, replace=False).tolist())
        wanted = min(len(free), max(count, self._power))
        share = self._samples[free] / self._samples[free].sum()
        drawn = generator.choice(free, wanted, replace=False, p=share).tolist()
        if self._power:
            drawn.sort(key=lambda client: -self.losses.get(client, math.inf))  # among equals, as drawn
        return sorted(drawn[:count])

    def foresee(self, free: Sequence[int], count: int, round_: int) -> list[int]:
        """What `draw` will say of `round_` while the round before it is not over yet; empty where that decides."""
        return [] if self._power or self.by_time else self.draw(free, count, round_)

    def observe(self, reports: "Sequence[ClientReport]") -> None:
        """Take the losses of a round's clients; they count from `commit` on."""
        if self._power:
            self._observed = {report.client: report.train_loss for report in reports}

    def commit(self) -> None:
        """The round has succeeded."""
        self.losses.update(self._observed)
        self._observed = {}

    def rollback(self) -> None:
        """The round has failed."""
        self._observed = {}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {"losses": sorted(self.losses.items()), "now": self.now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.losses, self.now = dict(state["losses"]), state["now"]

    def wait_s(self, client: int, now: float) -> float:
        """Virtual seconds until a client that was drawn is up; 0 where that is a matter of rounds."""
        return self._waits(client, now) if self._waits is not None and self.by_time else 0.0

    def _up(self, free: list[int], count: int, at: float) -> list[int]:
        """Clients that are up; if fewer than `count`, also those that will be up soonest. In virtual time clients that
        will never be up are left out."""
        if self._waits is None:
            return sorted(free)
        waits = sorted((self._waits(client, at), client) for client in free)
        if self.by_time:
            waits = [each for each in waits if each[0] < _NEVER]
        return [client for at, (wait, client) in enumerate(waits) if wait == 0 or at < count]


def _days(period: int, share: float, seed: int) -> _Waits:
    up = max(1, round(share * period))

    @cache
    def offset(client: int) -> int:
        return derive_seed(seed, "day", client) % period

    def waits(client: int, round_: float) -> float:
        hour = (int(round_) + offset(client)) % period
        return 0 if hour < up else period - hour

    return waits


def _hours(period: float, share: float, seed: int) -> _Waits:
    @cache
    def offset(client: int) -> float:
        return period * float(numpy_generator(seed, "day", client).random())

    def waits(client: int, now: float) -> float:
        second = math.fmod(now + offset(client), period)
        return 0.0 if second < share * period else period - second

    return waits


def _trace(path: Path, clients: int) -> tuple[_Waits, bool]:
    """Read a file: a function that says how long until a client is up (a client without rows never is), and whether in
    seconds."""
    (_, header), *lines = read_lines("--sampling", path) or [(1, [])]
    columns = next((each for each in _COLUMNS if sorted(header) == sorted(each)), None)
    if columns is None:
        raise ConfigError(
            f"--sampling {path}: its columns must be client, first_round and last_round, or client, first_s and last_s"
        )
    by_time = columns == _COLUMNS[1]
    number = float if by_time else int
    spans: dict[int, list[tuple[float, float]]] = {}
    for line, cells in lines:
        row = dict(zip(header, cells, strict=False))
        try:
            client, first, last = int(row[columns[0]]), number(row[columns[1]]), number(row[columns[2]])
        except (KeyError, ValueError):
            raise ConfigError(
                f"--sampling {path}: line {line} must hold three {'' if by_time else 'whole '}numbers"
            ) from None
        if not 0 <= client < clients or not 0 <= first <= last < math.inf:
            raise ConfigError(
                f"--sampling {path}: line {line} must name a client from 0 to {clients - 1}, and its times in order"
            )
        spans.setdefault(client, []).append((first, last))

    def waits(client: int, at: float) -> float:
        own = [max(0, first - at) for first, last in spans.get(client, []) if last >= at]
        return min(own, default=_NEVER)

    return waits, by_time
