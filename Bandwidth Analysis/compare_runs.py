"""A finished run as `compare.py` sees it: what it reached after every evaluated round, and what that had cost by then."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fl.clock.profiles import NAMED, Profile
from fl.clock.rounds import RoundClock, Work
from fl.errors import ConfigError, DataError
from fl.figures.run_data import Column, RunData, read_run
from fl.tasks import Score

OWN = "own"


@dataclass(frozen=True)
class Link:
    """The same device and link for every client: a profile without jitter, or the run's own virtual clock (None).

    `compute`: "flops" (the round's declared operations, shared equally, over the profile's FLOP/s), or "train_s" (the
    seconds in clients.csv, of the machine that ran it).
    """

    name: str
    profile: Profile | None
    compute: str

    @property
    def latency_s(self) -> float:
        """Of each transfer; 0 on a run's own clock, whose links differ."""
        return 0.0 if self.profile is None else self.profile.latency_s


def make_link(name: str, compute: str | None) -> Link:
    """The link called `name`: own, a profile of `fl/clock/profiles.py`, or a number of Mbit/s without latency or loss.

    `compute` None: flops for a profile, train_s for a number, which says nothing of a device. ConfigError.
    """
    if name == OWN:
        return Link(name, None, "own")
    if name in NAMED:
        return Link(name, replace(NAMED[name], jitter=0.0), compute or "flops")
    try:
        mbit = float(name)
    except ValueError:
        mbit = math.nan
    if not 0 < mbit < math.inf:
        raise ConfigError(f"--link {name} must be {OWN}, one of {', '.join(NAMED)}, or a positive number of Mbit/s")
    if compute == "flops":
        raise ConfigError(f"--compute flops needs a device's speed, which --link {name} does not have; use train_s")
    return Link(f"{mbit:g} Mbit/s", Profile(1.0, mbit / 8 * 1e6, mbit / 8 * 1e6, 0.0, 0.0, 0.0), "train_s")


@dataclass(frozen=True)
class RoundCost:
    """What the slowest client of a round does: seconds of computing, and bytes both ways, each at its largest."""

    compute_s: float
    link_bytes: int


@dataclass(frozen=True)
class Compared:
    """A run: float64[evaluated rounds] of its score on validation and test, and of all bytes and seconds so far.

    `costs`: by round; None where rounds do not wait for their slowest client, and so have none.
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
    costs: list[RoundCost] | None

    def reach(self, target: float) -> int | None:
        """Position of the first evaluated round with at least the target on validation; None if there is none."""
        found = np.flatnonzero(self.validation >= target)
        return int(found[0]) if len(found) else None

    def called(self, name: str) -> "Compared":
        """The same run under another name."""
        return replace(self, name=name)

    @property
    def best(self) -> int:
        """Position of the round with the best validation score."""
        return int(np.nanargmax(self.validation))


def read_compared(folder: Path, link: Link) -> Compared:
    """Read a run folder; DataError if it is none, if nothing was evaluated, or if its time on `link` cannot be told."""
    if not (folder / "metrics.csv").is_file():
        raise DataError(f"{folder} is no run folder: it has no metrics.csv")
    run = read_run(folder)
    score = run.score
    validation, test = (run.metrics.get(column, np.full(run.rounds, np.nan)) for column in score.columns)
    if not np.isfinite(validation).any():
        raise DataError(f"{folder} has no evaluation on validation data, so it reaches no target (--val-fraction)")
    costs, seconds = _times(run, folder, link)
    at = np.flatnonzero(np.isfinite(validation))
    up, down = (np.cumsum(np.nan_to_num(run[f"{way}_bytes"]))[at] for way in ("uplink", "downlink"))
    figures = (run["round"][at] + 1, validation[at], test[at], up, down, seconds[at])
    return Compared(run.name, folder, run.config, score, *figures, costs)


def _times(run: RunData, folder: Path, link: Link) -> tuple[list[RoundCost] | None, Column]:
    """Costs by round, and the second at which each round ends on `link`, float64[rounds]."""
    with open(folder / "clients.csv", newline="", encoding="utf-8") as file:
        # A client that was dropped has no samples: nobody waited for it.
        rows = [row for row in csv.DictReader(file) if None not in row.values() and int(float(row["samples"] or 0))]
    mode = str(run.config.get("mode", "sync"))
    waits = mode == "sync" and not run.config.get("deadline") and run.config.get("over_select", 1) == 1
    by_round: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_round.setdefault(int(row["round"]), []).append(row)
    ordered = [by_round.get(int(number), []) for number in run["round"]]
    if link.profile is None:
        if not np.isfinite(run["virtual_time_s"]).any():
            raise DataError(f"--link own: {folder} was run without --profiles, so it has no virtual time")
        costs = [_cost([float(row["sent_s"]) - float(row["ready_s"]) for row in own], own) for own in ordered]
        return costs if waits else None, run["virtual_time_s"]
    if not waits:
        raise DataError(
            f"--link {link.name}: a round of {folder} is not one exchange that waits for all of its clients "
            f"(--mode {mode} or a deadline), so its time cannot be worked out anew; use --link own"
        )
    computing = [_computing(run, at, own, link) for at, own in enumerate(ordered)]
    known = [link.profile] * (1 + max((int(row["client"]) for row in rows), default=0))
    clock, ends = RoundClock(known, 0), []
    for seconds, own in zip(computing, ordered, strict=True):
        clock.round([_work(row, each, link.profile) for row, each in zip(own, seconds, strict=True)])
        ends.append(clock.now)
    return [_cost(*each) for each in zip(computing, ordered, strict=True)], np.array(ends)


def _work(row: dict[str, str], seconds: float, profile: Profile) -> Work:
    sizes = int(row["downlink_bytes"]), int(row["uplink_bytes"])
    return Work(int(row["client"]), *sizes, seconds * profile.compute_flops)


def _computing(run: RunData, at: int, rows: Sequence[dict[str, str]], link: Link) -> list[float]:
    """Seconds of training of each of these clients."""
    if link.compute == "train_s":
        return [float(row["train_s"] or 0) for row in rows]
    assert link.profile is not None
    flops = float(run["train_flops"][at])
    if not math.isfinite(flops):
        raise DataError(f"--compute flops: the operations of {run.name} are not known; use --compute train_s")
    return [flops / len(rows) / link.profile.compute_flops for _ in rows]


def _cost(seconds: Sequence[float], rows: Sequence[dict[str, str]]) -> RoundCost:
    sizes = [int(row["uplink_bytes"]) + int(row["downlink_bytes"]) for row in rows]
    return RoundCost(max(seconds, default=0.0), max(sizes, default=0))
