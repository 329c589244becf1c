"""Runs of a few codecs that are expected to be the fastest, against one without compression."""

import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl.common.config import Config
from fl.output.figures.run_data import Column, RunData, read_run
from fl.run.api import train

from .advice import Advice
from .candidates import with_codecs
from .choose import Pair, best_by_uplink

RUNS = 3
"""How many pairs are confirmed."""


@dataclass(frozen=True)
class Confirmed:
    """A pair whose `rounds` is what its run has shown, where `expected` was foreseen. `score`: its best on validation, and
    in `words`."""

    pair: Pair
    expected: float
    score: float
    words: str


def confirm(advice: Advice, config: Config, explicit: frozenset[str], rounds: int) -> list[Confirmed]:
    """Runs of so many rounds with the options that the user gave: without compression, as advised, and with the next best.

    A run's rounds count by those after which the run without compression had its best validation score for the first time.
    There are validation data.
    """
    by_uplink = {pair.up.cost.spec: pair for pair in [*reversed(best_by_uplink(advice.pairs)), advice.advised]}
    others = [pair for pair in reversed(by_uplink.values()) if pair.specs != advice.advised.specs]
    chosen = [pair for pair in [advice.advised, *others] if pair.specs != advice.dense.specs][:RUNS]
    dense = _run(config, explicit, advice.dense, rounds)
    scores = _scores(dense)
    found = []
    for pair in [advice.dense, *chosen]:
        run = dense if pair is advice.dense else _run(config, explicit, pair, rounds)
        best = float(np.nanmax(_scores(run)))
        until = rounds if pair is advice.dense else rounds_until(dense["round"] + 1, scores, best)
        factor = rounds / until if until else math.inf  # it has not got anywhere yet
        shown, score = dataclasses.replace(pair, rounds=factor, borne_out=True), run.score.gain(best)
        found.append(Confirmed(shown, pair.rounds, score, run.score.words(score)))
    return found


def rounds_until(rounds: Column, scores: Column, score: float) -> float:
    """After how many rounds a run first had `score`, where it had `scores` after these `rounds`; between two, in
    proportion. 0 where it had more from the first round on, the last one where it never had so much."""
    best = np.maximum.accumulate(np.nan_to_num(scores, nan=-np.inf))
    at = int(np.searchsorted(best, score))
    if at == len(best):
        return float(rounds[-1])
    if at == 0:
        return float(rounds[0]) if score == best[0] else 0.0
    return float(rounds[at - 1] + (score - best[at - 1]) / (best[at] - best[at - 1]) * (rounds[at] - rounds[at - 1]))


def _scores(run: RunData) -> Column:
    """On validation, so that higher is better, [rounds]."""
    return run.score.gain(run[run.score.columns[0]])


def _run(config: Config, explicit: frozenset[str], pair: Pair, rounds: int) -> RunData:
    """An ordinary run, whose folder is gone afterwards."""
    given = {name: getattr(config, name) for name in explicit}
    with tempfile.TemporaryDirectory(prefix="leanfed-advise-") as folder:
        given |= {**with_codecs(config, *pair.specs), "rounds": rounds, "finetune_rounds": 0, "eval_every": 1}
        given |= {"output_dir": folder, "run_name": "run", "resume": None, "checkpoint_every": 0, "quiet": True}
        given |= {"track": "none", "tensorboard": False, "profile": False, "figures": False}
        train(**given)
        return read_run(Path(folder) / "run")
