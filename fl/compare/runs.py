"""A finished run as a comparison sees it: what it reached after every evaluated round, and what that had cost by then."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fl.clock.clock import RoundClock, VirtualClock, Work
from fl.clock.profiles import NAMED, Profile
from fl.common.errors import ConfigError, DataError
from fl.output.figures.run_data import Column, RunData, read_run
from fl.training.tasks import Score

from .clients import ClientRow, read_clients

OWN, NONE = "own", "none"
_COUNTED = ("round", "clients", "uplink_bytes", "downlink_bytes")

ClientRows = dict[int, list[ClientRow]]
"""By round."""


@dataclass(frozen=True)
class Link:
    """The same device and link for every client: a profile without jitter; None: the run's own virtual clock, or no time.

    `compute`: "flops" (each client's declared operations over the profile's FLOP/s), or "train_s" (the seconds in
    clients.csv, of the machine that ran it).
    """

    name: str
    profile: Profile | None
    compute: str

    @property
    def latency_s(self) -> float:
        """Of each transfer; 0 on a run's own clock, whose links differ."""
        return 0.0 if self.profile is None else self.profile.latency_s


def make_link(name: str, compute: str | None) -> Link:
    """The link called `name`: own, none, a profile of `fl/clock/profiles.py`, or a number of Mbit/s without latency or loss.

    `compute` None: flops for a profile, train_s for a number, which says nothing of a device. ConfigError.
    """
    if name in (OWN, NONE):
        return Link(name, None, name)
    if name in NAMED:
        return Link(name, replace(NAMED[name], jitter=0.0), compute or "flops")
    try:
        mbit = float(name)
    except ValueError:
        mbit = math.nan
    if not 0 < mbit < math.inf:
        raise ConfigError(
            f"--link {name} must be {OWN}, {NONE}, one of {', '.join(NAMED)}, or a positive number of Mbit/s"
        )
    if compute == "flops":
        raise ConfigError(f"--compute flops needs a device's speed, which --link {name} does not have; use train_s")
    return Link(f"{mbit:g} Mbit/s", Profile(1.0, mbit / 8 * 1e6, mbit / 8 * 1e6, 0.0, 0.0, 0.0), "train_s")


@dataclass(frozen=True)
class RoundCost:
    """What the slowest client of a round does: seconds of computing, and bytes both ways, each at its largest."""

    compute_s: float
    link_bytes: int


@dataclass(frozen=True)
class Total:
    """What so many rounds from the beginning of a run came to: bytes of all clients, and seconds."""

    rounds: int
    up_bytes: int
    down_bytes: int
    seconds: float


@dataclass(frozen=True)
class Compared:
    """A run: float64[rounds with a validation score] of its score on validation and test, and of all bytes and seconds
    so far.

    `last`: validation and test score of the last evaluated round, NaN where there is none. `whole`: all rounds that were
    made. `costs`: by round; None where rounds do not wait for their slowest client, or there is no link. `seconds`: NaN
    without a link.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    score: Score
    rounds: Column
    validation: Column
    test: Column
    up_bytes: Column
    down_bytes: Column
    seconds: Column
    last: tuple[float, float]
    whole: Total
    costs: list[RoundCost] | None

    def reach(self, target: float) -> int | None:
        """Position of the first evaluated round with at least the target on validation; None if there is none."""
        found = np.flatnonzero(self.score.gain(self.validation) >= self.score.gain(target))
        return int(found[0]) if len(found) else None

    def total(self, at: int) -> Total:
        """Up to the evaluated round at this position."""
        return Total(int(self.rounds[at]), int(self.up_bytes[at]), int(self.down_bytes[at]), float(self.seconds[at]))

    def called(self, name: str) -> "Compared":
        """The same run under another name."""
        return replace(self, name=name)

    @property
    def best(self) -> int:
        """Position of the round with the best validation score."""
        return int(np.nanargmax(self.score.gain(self.validation)))


def open_run(folder: Path) -> tuple[RunData, ClientRows]:
    """A run folder's tables; DataError, in one sentence, for what is none."""
    if not (folder / "metrics.csv").is_file():
        raise DataError(f"{folder} is no run folder: it has no metrics.csv")
    rows = read_clients(folder)
    return read_run(folder), rows


def make_compared(folder: Path, run: RunData, rows: ClientRows, link: Link) -> Compared:
    """The run in `folder` on `link`; DataError if nothing was evaluated, or if its time there cannot be told."""
    score = run.score
    validation, test = (run.metrics.get(column, np.full(run.rounds, np.nan)) for column in score.columns)
    if not run.rounds:
        raise DataError(f"{folder} has no finished round")
    if not np.isfinite(validation).any():
        if np.isfinite(run["val_loss"]).any():
            raise DataError(
                f"{folder} was evaluated on validation data, but {score.title} is not defined there (targets that are all "
                "the same, or predictions that are no numbers), so it reaches no target"
            )
        raise DataError(f"{folder} has no evaluation on validation data, so it reaches no target (--val-fraction)")
    costs, seconds = _times(run, folder, rows, link)
    at = np.flatnonzero(np.isfinite(validation))
    judged = np.flatnonzero(np.isfinite(run["val_loss"]) | np.isfinite(run["test_loss"]) | np.isfinite(validation))
    last = float(validation[judged[-1]]), float(test[judged[-1]])
    up, down = (np.cumsum(np.nan_to_num(run[f"{way}_bytes"])) for way in ("uplink", "downlink"))
    whole = Total(int(run["round"][-1]) + 1, int(up[-1]), int(down[-1]), float(seconds[-1]))
    figures = (run["round"][at] + 1, validation[at], test[at], up[at], down[at], seconds[at])
    return Compared(run.name, folder, run.config, score, *figures, last, whole, costs)


def _times(run: RunData, folder: Path, rows: ClientRows, link: Link) -> tuple[list[RoundCost] | None, Column]:
    """Costs by round, and the second at which each round ends on `link`, float64[rounds]."""
    if link.name == NONE:
        return None, np.full(run.rounds, np.nan)
    mode = str(run.config.get("mode", "sync"))
    waits = mode == "sync" and not run.config.get("deadline") and run.config.get("over_select", 1) == 1
    if link.profile is None:
        if not np.isfinite(run["virtual_time_s"]).any():
            raise DataError(
                f"--link own: {folder} was run without --profiles, so it has no virtual time; use --link none"
            )
        if not waits:
            return None, run["virtual_time_s"]
        ordered = _by_round(run, folder, rows)
        if any(math.isnan(row.own_s) for own in ordered for row in own):
            raise DataError(f"--link own: {folder / 'clients.csv'} has rows without ready_s and sent_s")
        return [_cost([row.own_s for row in own], own) for own in ordered], run["virtual_time_s"]
    if not waits:
        other = NONE if mode == "step" else OWN
        raise DataError(
            f"--link {link.name}: a round of {folder} is not one exchange that waits for all of its clients "
            f"(--mode {mode} or a deadline), so its time cannot be worked out anew; use --link {other}"
        )
    ordered = _by_round(run, folder, rows)
    computing = [_computing(run.name, own, link) for own in ordered]
    known = [link.profile] * (1 + max((row.client for own in ordered for row in own), default=0))
    clock, ends = RoundClock(lambda upload_bytes: VirtualClock(known, 0, upload_bytes)), []
    for seconds, own in zip(computing, ordered, strict=True):
        clock.round([_work(row, each, link.profile) for row, each in zip(own, seconds, strict=True)])
        ends.append(clock.now)
    return [_cost(*each) for each in zip(computing, ordered, strict=True)], np.array(ends)


def _by_round(run: RunData, folder: Path, rows: ClientRows) -> list[list[ClientRow]]:
    """Those that each round waited for; DataError where rows are missing, whose time and bytes would count as nothing."""
    found = []
    for number, clients, *sent in zip(*(run[name] for name in _COUNTED), strict=True):
        own = rows.get(number, [])
        wanted = int(clients) if np.isfinite(clients) else int(np.nansum(sent) > 0)
        if len(own) < wanted:
            raise DataError(
                f"{folder / 'clients.csv'} has {len(own)} rows of round {number:.0f}, in which metrics.csv counts "
                f"{wanted} or more clients, so its time cannot be told"
            )
        found.append([row for row in own if row.samples])  # a dropped client has no samples: nobody waited for it
    return found


def _work(row: ClientRow, seconds: float, profile: Profile) -> Work:
    return Work(row.client, row.down_bytes, row.up_bytes, seconds * profile.compute_flops)


def _computing(name: str, rows: Sequence[ClientRow], link: Link) -> list[float]:
    """Seconds of training of each of these clients."""
    if link.compute == "train_s":
        return [row.train_s for row in rows]
    assert link.profile is not None
    if any(math.isnan(row.train_flops) for row in rows):
        raise DataError(f"--compute flops: the operations of {name} are not known; use --compute train_s")
    return [row.train_flops / link.profile.compute_flops for row in rows]


def _cost(seconds: Sequence[float], rows: Sequence[ClientRow]) -> RoundCost:
    return RoundCost(max(seconds, default=0.0), max((row.link_bytes for row in rows), default=0))
