"""What fraction of the model each client can hold: the option `--capabilities`.

none                            all of it
uniform:LOW,HIGH                drawn for each client, whatever its rank, and rounded to 1/100
groups:1.0x2+0.6x2+0.3x2+0.1x4  density x number of clients, in the order of the clients: the first two hold all of it, the
                                next two 0.6. These are the groups of PR-FL (Ma 2024, arXiv 2403.15439, its program)
equal_time:FLOOR                what makes a round of every client as long as that of the fastest with the whole model, by
                                --profiles, and no less than FLOOR (`fl.clock.equal_time`)
online:FLOOR                    the same without knowing them, from the virtual times so far (`fl.clock.adaptive`)
FILE.csv                        columns client,capability, each client once
"""

import re
from dataclasses import dataclass
from pathlib import Path

from compression.spec import SpecError, nearest, parse_stage
from fl.common.client_table import read_clients
from fl.common.errors import ConfigError
from fl.common.seeds import numpy_generator

_KNOWN = ("none", "uniform", "groups", "equal_time", "online")
_GROUP = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)x([0-9]{1,9})")
_COLUMNS = ("client", "capability")


@dataclass(frozen=True)
class Capabilities:
    """What `--capabilities` asks for: the `file` or `groups` if there are any, otherwise draws from `low` to `high`.

    A group is a density in (0, 1] and a number of clients.
    """

    low: float = 1.0
    high: float = 1.0
    groups: tuple[tuple[float, int], ...] = ()
    equal_time: bool = False  # not below `low`
    online: bool = False  # the same
    file: Path | None = None


def parse_capabilities(text: str) -> Capabilities:
    """Read `--capabilities`; SpecError for what cannot be meant. A file is opened only by `capabilities`."""
    if text.strip().endswith(".csv"):
        return Capabilities(file=Path(text.strip()))
    stage = parse_stage(text)
    if stage.name not in _KNOWN:
        hint = nearest(stage.name, _KNOWN)
        raise SpecError(
            f"'{text}': capabilities are none, uniform, groups, equal_time, online or a file NAME.csv, not "
            f"'{stage.name}'{hint}"
        )
    if stage.name == "uniform":
        stage.expect(2)
        low, high = stage.number(0, 0.01, 1, "LOW"), stage.number(1, 0.01, 1, "HIGH")
        if low > high:
            raise SpecError(f"'{text}': LOW must be at most HIGH = {high:g}, not {low:g}")
        return Capabilities(low, high)
    if stage.name == "groups":
        stage.expect(1)
        return Capabilities(groups=tuple(_group(text, word) for word in stage.args[0].split("+")))
    if stage.name in ("equal_time", "online"):
        stage.expect(1)
        floor = stage.number(0, 0.01, 1, "FLOOR")
        return Capabilities(low=floor, equal_time=stage.name == "equal_time", online=stage.name == "online")
    stage.expect(0)
    return Capabilities()


def capabilities(text: str, clients: int, seed: int) -> tuple[float, ...]:
    """The capability in (0, 1] of each client, [clients], that the option `text` gives it.

    What is drawn depends on (seed, client) alone. It is rounded to 1/100, so that there are few distinct levels and clients
    of one level can share a mask, but stays between LOW and HIGH. ConfigError where groups or file do not fit `clients`;
    SpecError as in `parse_capabilities`.
    """
    spec = parse_capabilities(text)
    if spec.file is not None:
        return read_clients("--capabilities", spec.file, _COLUMNS, clients, _capability)
    if spec.groups:
        total = sum(count for _, count in spec.groups)
        if total != clients:
            raise ConfigError(
                f"--capabilities {text}: the groups have {total} clients; they must add up to --clients {clients}"
            )
        return tuple(density for density, count in spec.groups for _ in range(count))
    return tuple(_drawn(spec.low, spec.high, seed, client) for client in range(clients))


def _drawn(low: float, high: float, seed: int, client: int) -> float:
    value = low + (high - low) * numpy_generator(seed, "capability", client).random()
    return min(high, max(low, round(value, 2)))


def _group(text: str, word: str) -> tuple[float, int]:
    match = _GROUP.fullmatch(word.strip())
    if match is None or not 0 < float(match[1]) <= 1 or not int(match[2]):
        raise SpecError(
            f"'{text}': a group is DENSITYxCLIENTS with a density above 0 and at most 1, as in 0.6x2, not '{word.strip()}'"
        )
    return float(match[1]), int(match[2])


def _capability(where: str, cells: list[str]) -> float:
    """The capability in one line; `where` begins the message of a ConfigError."""
    try:
        value = float(cells[0])
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise ConfigError(f"{where} capability must be above 0 and at most 1, not '{cells[0]}'")
    return value
