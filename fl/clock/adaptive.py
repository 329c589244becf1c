"""The fraction that each client takes: of the model (`--capabilities`), or of the uplink's coordinates (`--uplink-shares`).

A fraction is given, or learnt from virtual times, so that every client takes as long as the fastest one with fraction 1.

`--uplink-shares`:
none               all send the same
equal_time:FLOOR   uploads of as many bytes as each client's link carries in the time of the fastest link, by --profiles
online:FLOOR       the same without knowing them, from the virtual times of the uploads so far

No client sends less than FLOOR of what --uplink says.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.common.config import Config

from .profiles import Profile, profiles

_MEMORY = 0.5  # of the estimate before, when a new time comes
_LEAST = 0.1  # of a share: smaller changes are not worth a new part of the model


class Change(NamedTuple):
    """A client's fraction changes."""

    client: int
    before: float
    after: float


class Time(NamedTuple):
    """The virtual seconds that a client took with this fraction."""

    client: int
    seconds: float
    share: float


class Fractions:
    """The fraction in (0, 1] of each client; without `values` 1 for all.

    `column`: its name in clients.csv; `since`: the column of clients.csv from which on a client's time counts.
    """

    def __init__(self, values: Iterable[float] = (), column: str = "", since: str = "start_s") -> None:
        self.values = list(values)
        self.column = column
        self.since = since

    def __getitem__(self, client: int) -> float:
        return self.values[client] if self.values else 1.0

    @property
    def learns(self) -> bool:
        """Whether `observe` changes anything."""
        return False

    def columns(self, client: int) -> dict[str, float]:
        """The column of clients.csv, where there is one."""
        return {self.column: self[client]} if self.column else {}

    def observe(self, times: Iterable[Time], late: Iterable[Time] = ()) -> list[Change]:
        """Take the times of a round's clients, in the order of their arrival, and the busy times of clients that the server
        gave up on."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, for JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""


class AdaptiveFractions(Fractions):
    """A client that took T seconds with the fraction c needs T / c^power for all of it; the fastest client sets everybody's
    time.

    `power`: how the time grows with the fraction: 2 for the channels of a smaller model, 1 for single weights or
    coordinates. New estimates and old ones are averaged, half and half, because links jitter; a client that was given up on
    needs at least the time that it had. A fraction is rounded down to 1/100, is at least `floor`, and stays if it would
    change by less than a tenth. A latency, which no fraction shortens, makes the fraction fall until the client's
    *observed* time is the fastest's, or to the floor.
    """

    def __init__(self, clients: int, *, floor: float, power: int, column: str = "", since: str = "start_s") -> None:
        super().__init__([1.0] * clients, column, since)
        self.floor = floor
        self.power = power
        self._whole: dict[int, float] = {}  # seconds that all of it takes each client, as far as known

    @property
    def learns(self) -> bool:
        return True

    def observe(self, times: Iterable[Time], late: Iterable[Time] = ()) -> list[Change]:
        """The changes are in the order of the clients."""
        seen = set()
        for client, seconds, share in times:
            if seconds > 0:
                whole, before = seconds / share**self.power, self._whole.get(client)
                self._whole[client] = whole if before is None else _MEMORY * before + (1 - _MEMORY) * whole
                seen.add(client)
        for client, seconds, share in late:
            whole = seconds / share**self.power
            if whole > self._whole.get(client, 0.0):
                self._whole[client] = whole
                seen.add(client)
        fastest = min(self._whole.values(), default=0.0)
        changes = []
        for client in sorted(seen):
            before, after = self.values[client], self._fitting(fastest, self._whole[client])
            if abs(after - before) >= _LEAST * before:
                self.values[client] = after
                changes.append(Change(client, before, after))
        return changes

    def _fitting(self, fastest: float, whole: float) -> float:
        share = (fastest / whole) ** (1 / self.power)
        return max(self.floor, math.floor(100 * share + 1e-9) / 100)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values.copy(), "whole": sorted(self._whole.items())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = list(state["values"])
        self._whole = dict(state["whole"])


def equal_time(
    known: Sequence[Profile], flops: Sequence[float], parameters: int, *, smaller: bool, floor: float
) -> tuple[float, ...]:
    """The capability in [floor, 1] of each client, rounded down to 1/100, at which its round takes no longer than that of
    the fastest client with the whole model: both latencies, a model down and up in fp32, and the training.

    `flops`: of each client's training of the whole model in a round. `smaller`: a submodel is a smaller dense model; the
    fraction c of the channels then has about c^2 of the weights and operations. Otherwise it is a mask, with c of the
    weights, and computing takes as long as ever. Jitter and limits of the server are not looked at. PR-FL's "equal time".
    """
    fixed, scaled = [], []
    for profile, work in zip(known, flops, strict=True):
        compute = work / profile.compute_flops
        wire = 4 * parameters / (1 - profile.loss)
        transfer = wire / profile.down_bytes + wire / profile.up_bytes
        fixed.append(2 * profile.latency_s + (0.0 if smaller else compute))
        scaled.append(transfer + (compute if smaller else 0.0))
    target = min(still + more for still, more in zip(fixed, scaled, strict=True))
    return tuple(_fits(target - still, more, smaller, floor) for still, more in zip(fixed, scaled, strict=True))


def equal_upload_fractions(known: Sequence[Profile], *, floor: float) -> tuple[float, ...]:
    """The fraction in [floor, 1] of --uplink's coordinates of each client, rounded down to 1/100: uploads of as many bytes
    as its link carries in the time of the fastest link. Latency, jitter and limits of the server are not looked at."""
    rates = [profile.up_bytes * (1 - profile.loss) for profile in known]
    fastest = max(rates)
    return tuple(_fits(1 / fastest, 1 / rate, False, floor) for rate in rates)


def _fits(left: float, whole: float, smaller: bool, floor: float) -> float:
    share = 1.0 if whole <= left else max(0.0, left / whole)
    fraction = math.sqrt(share) if smaller else share
    return max(floor, min(1.0, math.floor(100 * fraction + 1e-9) / 100))


_KNOWN = ("none", "equal_time", "online")


def parse_uplink_shares(text: str) -> Stage:
    """Read `--uplink-shares`; SpecError for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in _KNOWN:
        raise SpecError(f"'{text}': shares are none, equal_time:FLOOR or online:FLOOR{nearest(stage.name, _KNOWN)}")
    stage.expect(0 if stage.name == "none" else 1)
    if stage.args:
        stage.number(0, 0.01, 1, "FLOOR")
    return stage


def uplink_fractions(config: Config) -> Fractions:
    """The uplink fractions that the options of a run ask for."""
    stage = parse_uplink_shares(config.uplink_shares)
    if stage.name == "none":
        return Fractions()
    assert config.clients is not None
    floor, column, since = float(stage.args[0]), "uplink_share", "sent_s"
    if stage.name == "online":
        return AdaptiveFractions(config.clients, floor=floor, power=1, column=column, since=since)
    known = profiles(config.profiles, config.clients, config.seed)
    return Fractions(equal_upload_fractions(known, floor=floor), column, since)
