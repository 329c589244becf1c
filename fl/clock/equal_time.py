"""Shares from profiles: every client takes what takes it as long as the fastest client takes for all of it."""

import math
from collections.abc import Sequence

from .profiles import Profile


def equal_time(
    known: Sequence[Profile], flops: Sequence[float], parameters: int, *, smaller: bool, floor: float
) -> tuple[float, ...]:
    """The capability in [floor, 1] of each client, rounded down to 1/100, at which its round takes no longer than that of
    the fastest client with the whole model: both latencies, a model down and up in fp32, and the training.

    `flops`: of each client's training of the whole model in a round. `smaller`: a part is a smaller dense model; the
    fraction c of the channels then has about c^2 of the weights and operations. Otherwise a part is a mask, with c of the
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


def equal_uploads(known: Sequence[Profile], *, floor: float) -> tuple[float, ...]:
    """The share in [floor, 1] of --uplink's coordinates of each client, rounded down to 1/100: uploads of as many bytes as
    its link carries in the time of the fastest link. Latency, jitter and limits of the server are not looked at."""
    rates = [profile.up_bytes * (1 - profile.loss) for profile in known]
    fastest = max(rates)
    return tuple(_fits(1 / fastest, 1 / rate, False, floor) for rate in rates)


def _fits(left: float, whole: float, smaller: bool, floor: float) -> float:
    share = 1.0 if whole <= left else max(0.0, left / whole)
    fraction = math.sqrt(share) if smaller else share
    return max(floor, min(1.0, math.floor(100 * fraction + 1e-9) / 100))
