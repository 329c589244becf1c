"""A finished run as `compare.py` sees it: what it reached after every evaluated round, and what that had cost by then."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from compare_clients import ClientRow, read_clients

from fl.clock.profiles import NAMED, Profile
from fl.clock.rounds import RoundClock, Work
from fl.errors import ConfigError, DataError
from fl.figures.run_data import Column, RunData, read_run
from fl.tasks import Score

OWN = "own"
_COUNTED = ("round", "clients", "uplink_bytes", "downlink_bytes")

ClientRows = dict[int, list[ClientRow]]
"""By round."""


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
    if not np.isfinite(validation).any():
        if np.isfinite(run["val_loss"]).any():
            raise DataError(
                f"{folder} was evaluated on validation data, but {score.title} is not defined there (targets that are all "
                "the same, or predictions that are no numbers), so it reaches no target"
            )
        raise DataError(f"{folder} has no evaluation on validation data, so it reaches no target (--val-fraction)")
    costs, seconds = _times(run, folder, rows, link)
    at = np.flatnonzero(np.isfinite(validation))
    up, down = (np.cumsum(np.nan_to_num(run[f"{way}_bytes"]))[at] for way in ("uplink", "downlink"))
    figures = (run["round"][at] + 1, validation[at], test[at], up, down, seconds[at])
    return Compared(run.name, folder, run.config, score, *figures, costs)


def _times(run: RunData, folder: Path, rows: ClientRows, link: Link) -> tuple[list[RoundCost] | None, Column]:
    """Costs by round, and the second at which each round ends on `link`, float64[rounds]."""
    mode = str(run.config.get("mode", "sync"))
    waits = mode == "sync" and not run.config.get("deadline") and run.config.get("over_select", 1) == 1
    if link.profile is None:
        if not np.isfinite(run["virtual_time_s"]).any():
            raise DataError(f"--link own: {folder} was run without --profiles, so it has no virtual time")
        if not waits:
            return None, run["virtual_time_s"]
        ordered = _by_round(run, folder, rows)
        if any(math.isnan(row.own_s) for own in ordered for row in own):
            raise DataError(f"--link own: {folder / 'clients.csv'} has rows without ready_s and sent_s")
        return [_cost([row.own_s for row in own], own) for own in ordered], run["virtual_time_s"]
    if not waits:
        raise DataError(
            f"--link {link.name}: a round of {folder} is not one exchange that waits for all of its clients "
            f"(--mode {mode} or a deadline), so its time cannot be worked out anew; use --link own"
        )
    ordered = _by_round(run, folder, rows)
    computing = [_computing(run, at, own, link) for at, own in enumerate(ordered)]
    known = [link.profile] * (1 + max((row.client for own in ordered for row in own), default=0))
    clock, ends = RoundClock(known, 0), []
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


def _computing(run: RunData, at: int, rows: Sequence[ClientRow], link: Link) -> list[float]:
    """Seconds of training of each of these clients."""
    if link.compute == "train_s":
        return [row.train_s for row in rows]
    assert link.profile is not None
    flops = float(run["train_flops"][at])
    if not math.isfinite(flops):
        raise DataError(f"--compute flops: the operations of {run.name} are not known; use --compute train_s")
    return [flops / len(rows) / link.profile.compute_flops for _ in rows]


def _cost(seconds: Sequence[float], rows: Sequence[ClientRow]) -> RoundCost:
    return RoundCost(max(seconds, default=0.0), max((row.link_bytes for row in rows), default=0))
