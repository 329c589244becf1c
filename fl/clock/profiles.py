"""How fast each client computes and how good its link is: the option `--profiles`.

none                                computing and sending take no time
NAME                                the same for every client; the names are those of `NAMED`
mix:good=0.5+poor_3g=0.3+2g=0.2     drawn for each client, whatever its rank, with these shares, which add up to 1
pr-fl                               the ten clients of PR-FL in their order; n clients take theirs in the same proportions
FILE.csv                            columns client,compute_flops,up_bytes,down_bytes,latency_s,loss,jitter, each client once

Behind any of them may stand `,compute=LOW..HIGH` (FLOP/s): the computing speeds are then drawn log-uniformly for each
client; and `,sparse`: devices skip what a mask over single weights leaves out, so that it shortens computing.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from compression.spec import SpecError, fraction, nearest
from fl.common.client_table import read_clients
from fl.common.errors import ConfigError
from fl.common.seeds import numpy_generator


@dataclass(frozen=True)
class Profile:
    """One client's device and link.

    compute_flops in FLOP/s that training sustains; up_bytes and down_bytes in bytes/s, to and from the server; latency_s in
    seconds for each transfer; loss, the fraction of packets lost, in [0, 1); jitter, the sigma of the log-normal factor of
    mean 1 on the time that the bytes of a transfer take, in [0, 2].
    """

    compute_flops: float
    up_bytes: float
    down_bytes: float
    latency_s: float
    loss: float
    jitter: float


# Latency, loss and bandwidth (the same both ways) of all but lan are those of the three-use-case system's network
# simulator, whose names for the last five are moderate, poor, very_poor, satellite and congested_moderate. Ours are:
# all of lan; every compute_flops, for a device to be expected on such a link (workstation with a GPU, the same,
# laptop, phone, old phone, small board, laptop, phone); every jitter, because theirs varies the latency of packets and
# ours the time of a whole transfer.
NAMED = {
    "lan": Profile(1e12, 125e6, 125e6, 0.0005, 0.0, 0.0),
    "excellent": Profile(1e12, 12.5e6, 12.5e6, 0.002, 0.0001, 0.05),
    "good": Profile(2e11, 12.5e6, 12.5e6, 0.02, 0.001, 0.1),
    "fair": Profile(5e10, 1.25e6, 1.25e6, 0.03, 0.003, 0.2),
    "poor_3g": Profile(1e10, 125e3, 125e3, 0.12, 0.005, 0.3),
    "2g": Profile(2e9, 9375.0, 9375.0, 0.4, 0.01, 0.3),
    "satellite": Profile(2e11, 625e3, 625e3, 0.6, 0.015, 0.2),
    "congested": Profile(5e10, 625e3, 625e3, 0.075, 0.035, 0.5),
}

NO_LIMITS = Profile(math.inf, math.inf, math.inf, 0.0, 0.0, 0.0)

# PR-FL (Ma 2024, arXiv 2403.15439, its program): groups of 2, 2, 2 and 4 clients, up and down in MB/s (10^6 bytes/s
# here; its sizes are in MiB), log-normal noise of sigma 0.3 on every rate, no latency, no loss. Every round it takes
# the mean of 20 draws of the noise, of which sigma 0.07 or so remains; ours is drawn once for each transfer. Its
# clients all compute at the measured speed of one host; the equal 1e11 FLOP/s are ours.
_PR_FL_UP = (5.0, 4.0, 3.0, 2.5, 1.5, 1.0, 0.6, 0.5, 0.5, 0.4)
_PR_FL_DOWN = (20.0, 18.0, 12.0, 10.0, 6.0, 4.0, 2.5, 2.0, 2.0, 1.5)
PR_FL = tuple(
    Profile(1e11, up * 1e6, down * 1e6, 0.0, 0.0, 0.3) for up, down in zip(_PR_FL_UP, _PR_FL_DOWN, strict=True)
)

_KNOWN = ("none", *NAMED, "mix", "pr-fl")
_COLUMNS = ("client", "compute_flops", "up_bytes", "down_bytes", "latency_s", "loss", "jitter")
_OPTION = re.compile(r",\s*(?:(compute)\s*=([^,]*)|(sparse))$")
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST = 1e18  # FLOP/s and bytes/s
_RATE = (lambda value: 0 < value <= _MOST, f"a number above 0 and at most {_MOST:g}")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "compute_flops": _RATE,
    "up_bytes": _RATE,
    "down_bytes": _RATE,
    "latency_s": (lambda value: value <= 1e6, "a number from 0 to 1e+06"),
    "loss": (lambda value: value < 1, "a number from 0 to below 1"),
    "jitter": (lambda value: value <= 2, "a number from 0 to 2"),
}


@dataclass(frozen=True)
class Profiles:
    """What `--profiles` asks for: a `file`, a `mix` of (name, share) or, without these, the one `name`.

    `compute` is the range (LOW, HIGH) in FLOP/s that `,compute=LOW..HIGH` gave; `sparse`: whether `,sparse` was there.
    """

    name: str = "none"
    mix: tuple[tuple[str, float], ...] = ()
    file: Path | None = None
    compute: tuple[float, float] | None = None
    sparse: bool = False


def parse_profiles(text: str) -> Profiles:
    """Read `--profiles`; SpecError for what cannot be meant. A file is opened only by `profiles`."""
    head, found = text.strip(), dict[str, str]()
    while (option := _OPTION.search(head)) is not None:
        name, value = option[1] or option[3], option[2] or ""
        if name in found:
            raise SpecError(f"'{text}': {name} is given twice")
        found[name] = value.strip()
        head = head[: option.start()].strip()
    compute, sparse = _spread(text, found["compute"]) if "compute" in found else None, "sparse" in found
    if head.endswith(".csv"):
        return Profiles(file=Path(head), compute=compute, sparse=sparse)
    what, comma, rest = head.partition(",")
    if comma:
        key = rest.partition("=")[0].strip()
        raise SpecError(f"'{text}': profiles have no option '{key}', only compute=LOW..HIGH and sparse")
    name, colon, shares = (part.strip() for part in what.partition(":"))
    if name not in _KNOWN:
        raise SpecError(
            f"'{text}': profiles are none, a name, mix:NAME=SHARE+..., pr-fl or a file NAME.csv, not '{name}'"
            f"{nearest(name, _KNOWN)}"
        )
    if name == "mix":
        return Profiles(name, _mix(text, shares), compute=compute, sparse=sparse)
    if colon:
        raise SpecError(f"'{text}': {name} takes nothing after a colon, not '{shares}'")
    return Profiles(name, compute=compute, sparse=sparse)


def profiles(text: str, clients: int, seed: int) -> tuple[Profile, ...]:
    """The profile of each client, [clients], that the option `text` gives it.

    What is drawn depends on (seed, client) alone. ConfigError where a file does not fit `clients`; SpecError as in
    `parse_profiles`.
    """
    spec = parse_profiles(text)
    if spec.file is not None:
        found = read_clients("--profiles", spec.file, _COLUMNS, clients, _profile)
    elif spec.mix:
        found = tuple(_drawn(spec.mix, seed, client) for client in range(clients))
    elif spec.name == "pr-fl":
        found = tuple(PR_FL[client * len(PR_FL) // clients] for client in range(clients))
    else:
        found = (NAMED.get(spec.name, NO_LIMITS),) * clients
    if spec.compute is None:
        return found
    return tuple(
        replace(profile, compute_flops=_speed(*spec.compute, seed, client)) for client, profile in enumerate(found)
    )


def _drawn(mix: tuple[tuple[str, float], ...], seed: int, client: int) -> Profile:
    names, shares = zip(*mix, strict=True)
    at = bisect_right(list(accumulate(shares)), numpy_generator(seed, "profile", client).random())
    return NAMED[names[min(at, len(names) - 1)]]  # the shares may add up to a bit less than 1


def _speed(low: float, high: float, seed: int, client: int) -> float:
    value = low * (high / low) ** numpy_generator(seed, "compute", client).random()
    # Six digits, because the last bits of a power differ between C libraries.
    return min(high, max(low, float(f"{value:.6g}")))


def _spread(text: str, spread: str) -> tuple[float, float]:
    low, _, high = (part.strip() for part in spread.partition(".."))
    for value in (low, high):
        if not _NUMBER.fullmatch(value) or not 1 <= float(value) <= _MOST:
            raise SpecError(
                f"'{text}': compute is LOW..HIGH in FLOP/s, both from 1 to {_MOST:g}, as in 1e9..1e11, not '{spread}'"
            )
    if float(low) > float(high):
        raise SpecError(f"'{text}': LOW must be at most HIGH = {high}, not {low}")
    return float(low), float(high)


def _mix(text: str, shares: str) -> tuple[tuple[str, float], ...]:
    found: dict[str, float] = {}
    for part in shares.split("+"):
        name, _, share = (word.strip() for word in part.partition("="))
        if name not in NAMED:
            raise SpecError(f"'{text}': a part of a mix is NAME=SHARE, not '{part.strip()}'{nearest(name, NAMED)}")
        if name in found:
            raise SpecError(f"'{text}': {name} is there twice")
        if not _NUMBER.fullmatch(share) or not 0 < float(share) <= 1:
            percent = re.fullmatch(r"[0-9]+(\.[0-9]+)?%", share)
            hint = f"; did you mean {fraction(share)}?" if percent else ""
            raise SpecError(
                f"'{text}': the share of {name} must be a number above 0 and at most 1, not '{share}'{hint}"
            )
        found[name] = float(share)
    total = math.fsum(found.values())
    if abs(total - 1) > 1e-9:
        raise SpecError(f"'{text}': the shares must add up to 1, not {total:.12g}")
    return tuple(found.items())


def _profile(where: str, cells: list[str]) -> Profile:
    """The profile in one line; `where` begins the message of a ConfigError."""
    values = []
    for column, cell in zip(_COLUMNS[1:], cells, strict=True):
        fits, right = _RANGES[column]
        if not _NUMBER.fullmatch(cell) or not fits(float(cell)):
            raise ConfigError(f"{where} {column} must be {right}, not '{cell}'")
        values.append(float(cell))
    return Profile(*values)
