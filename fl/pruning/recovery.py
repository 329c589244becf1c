"""When the densities of clients grow: the option `--recover`.

none                      never
plateau:PATIENCE[,DELTA]  when the best validation score (accuracy, or R2) has not risen by more than DELTA (0.001 by
                          default) in PATIENCE evaluations; then the wait starts anew
schedule:BEGIN,EVERY      before the rounds BEGIN, BEGIN + EVERY, BEGIN + 2 EVERY, ...

Ma 2024, "Federated Learning based on Pruning and Recovery" (PR-FL, arXiv 2403.15439): clients start with small models that
suit them, and later recover what was pruned. Its program looks at the test accuracy; here only validation data decide.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compression.spec import SpecError, Stage, nearest, parse_stage

_KNOWN = ("none", "plateau", "schedule")
_DELTA = 0.001
LEVELS = (0.1, 0.3, 0.6, 1.0)


def parse_recovery(text: str) -> Stage:
    """Read and check `--recover`; rounds count from 0. SpecError for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in _KNOWN:
        raise SpecError(f"there is no recovery '{stage.name}'{nearest(stage.name, _KNOWN)}")
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

    def state_dict(self) -> dict[str, Tensor]:
        """Everything needed to go on."""
        return {
            "stage": torch.tensor(self.stage),
            "best": torch.tensor(self._best, dtype=torch.float64),
            "waited": torch.tensor(self._waited),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
        self.stage = int(state["stage"])
        self._best = float(state["best"])
        self._waited = int(state["waited"])


def density_at(capability: float, stage: int, levels: Sequence[float] = LEVELS) -> float:
    """A client's density in (0, 1] after `stage` growths: the stage-th of the ascending `levels` above its capability.

    Stage 0 is the capability itself; after the last level it is 1.
    """
    if stage == 0:
        return capability
    above = [level for level in levels if level > capability]
    return above[stage - 1] if stage <= len(above) else 1.0
