"""What fraction of the model each client can hold, and when it grows: the options `--capabilities` and `--recover`.

`--capabilities`:

none                            all of it
uniform:LOW,HIGH                drawn for each client, whatever its rank, and rounded to 1/100
groups:1.0x2+0.6x2+0.3x2+0.1x4  density x number of clients, in the order of the clients: the first two hold all of it, the
                                next two 0.6. These are the groups of PR-FL (Ma 2024, arXiv 2403.15439, its program)
equal_time:FLOOR                what makes a round of every client as long as that of the fastest with the whole model, by
                                --profiles, and no less than FLOOR (`fl.clock.adaptive`)
online:FLOOR                    the same without knowing them, from the virtual times so far (`fl.clock.adaptive`)
FILE.csv                        columns client,capability, each client once

`--recover`:
none                      never
plateau:PATIENCE[,DELTA]  when the best validation score (accuracy, or R2) has not risen by more than DELTA (0.001 by
                          default) in PATIENCE evaluations; then the wait starts anew
schedule:BEGIN,EVERY      before the rounds BEGIN, BEGIN + EVERY, BEGIN + 2 EVERY, ...

Ma 2024, "Federated Learning based on Pruning and Recovery" (PR-FL, arXiv 2403.15439): clients start with small models that
suit them, and later recover what was pruned. Its program looks at the test accuracy; here only validation data decide.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.spec import SpecError, Stage, nearest, parse_stage
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


_RECOVERIES = ("none", "plateau", "schedule")


_DELTA = 0.001


LEVELS = (0.1, 0.3, 0.6, 1.0)


def parse_recovery(text: str) -> Stage:
    """Read and check `--recover`; rounds count from 0. SpecError for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in _RECOVERIES:
        raise SpecError(f"there is no recovery '{stage.name}'{nearest(stage.name, _RECOVERIES)}")
    if stage.name == "plateau":
        stage.expect(2 if len(stage.args) == 2 else 1)
        stage.integer(0, 1, "PATIENCE")
        if len(stage.args) == 2:
            stage.number(1, 0, 1, "DELTA")
    elif stage.name == "schedule":
        stage.expect(2)
        stage.integer(0, 1, "BEGIN")
        stage.integer(1, 1, "EVERY")
    else:
        stage.expect(0)
    return stage


class Recovery:
    """Decides after each round whether densities grow. A function of the rounds and scores it was told of.

    `stage`: how often they have grown so far. It goes on counting when every client holds the whole model; `density_at`
    stops at 1. SpecError for a `text` that `parse_recovery` refuses.
    """

    def __init__(self, text: str) -> None:
        self._spec = parse_recovery(text)
        self.stage = 0
        self._best = -math.inf
        self._waited = 0  # evaluations since the best one, or since the last growth

    def observe(self, round_: int, val_score: float | None) -> bool:
        """Round `round_` is over, with this validation score, at most 1 (None: not evaluated). Do densities grow now?

        To be called once after every round; True counts for the round that comes next.
        """
        grows = self._is_due(round_ + 1) if self._spec.name == "schedule" else self._is_stuck(val_score)
        self.stage += grows
        return grows

    def _is_due(self, next_round: int) -> bool:
        begin, every = (int(word) for word in self._spec.args)
        return next_round >= begin and (next_round - begin) % every == 0

    def _is_stuck(self, val_score: float | None) -> bool:
        if self._spec.name == "none" or val_score is None:
            return False
        patience = int(self._spec.args[0])
        delta = float(self._spec.args[1]) if len(self._spec.args) == 2 else _DELTA
        if val_score > self._best + delta:
            self._best, self._waited = val_score, 0
            return False
        self._waited += 1
        if self._waited < patience:
            return False
        self._waited = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        best = None if self._best == -math.inf else self._best
        return {"stage": self.stage, "best": best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.stage, self._waited = state["stage"], state["waited"]
        self._best = -math.inf if state["best"] is None else state["best"]


def density_at(capability: float, stage: int, levels: Sequence[float] = LEVELS) -> float:
    """A client's density in (0, 1] after `stage` growths: the stage-th of the ascending `levels` above its capability.

    Stage 0 is the capability itself; after the last level it is 1.
    """
    if stage == 0:
        return capability
    above = [level for level in levels if level > capability]
    return above[stage - 1] if stage <= len(above) else 1.0
