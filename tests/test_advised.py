"""What `leanfed advise` expects, against what the committed experiments have shown (Bandwidth Analysis/advised.csv)."""

import csv
from pathlib import Path
from typing import Any

import advised
import pytest

from compression.describe import Description
from fl.advise.choose import Pair, Round, recommend
from fl.advise.links import links_of, read_link
from fl.advise.measure import Measured
from fl.common.config import Config

with open(Path(advised.__file__).parent / "advised.csv", encoding="utf-8") as _file:
    ROWS = list(csv.DictReader(_file))


def arms(experiment: str) -> list[dict[str, Any]]:
    """The rows of arms with error feedback whose rounds were measured."""
    return [
        row
        for row in ROWS
        if row["experiment"] == experiment and row["error_feedback"] == "residual" and row["measured_rounds"]
    ]


def codec(row: dict[str, Any]) -> Measured:
    """As it was measured."""
    half, size = float(row["coding_s"]) / 2, int(row["bytes"])
    dense = int(arms(row["experiment"])[0]["bytes"])
    cost = Description(row["uplink"], 0, 1, size, dense, half, half)
    return Measured(cost, 0.0, 1.0, 1.0, float(row["behind"]), "powersgd" in row["uplink"])


@pytest.mark.parametrize("experiment", advised.EXPERIMENTS)
def test_measured_rounds_are_those_of_the_curves(experiment: str) -> None:
    """The committed table is what the committed curves give."""
    shown = advised.measured_rounds(Path(advised.__file__).parent / experiment)
    for row in arms(experiment):
        assert float(row["measured_rounds"]) == pytest.approx(shown[row["arm"]], abs=1e-3)
        down = 1 / (1 - float(row["behind_down"]) ** 2)
        assert float(row["expected_rounds"]) == pytest.approx(codec(row).rounds * down, abs=1e-2)


@pytest.mark.parametrize("row", [row for name in advised.EXPERIMENTS for row in arms(name)], ids=lambda row: row["arm"])
def test_rounds_are_as_expected(row: dict[str, Any]) -> None:
    """Within a quarter of what the runs needed, but for low rank, which is why that is not advised unconfirmed, and within a
    third where more than twice the rounds are expected, which is never advised."""
    off = float(row["measured_rounds"]) / float(row["expected_rounds"])
    if "powersgd" in row["uplink"]:
        assert off > 1.2
    else:
        most = 1.25 if float(row["expected_rounds"]) <= 2 else 4 / 3
        assert 1 / most < off < most


@pytest.mark.parametrize("mbit", ["0.01", "0.1", "1", "10", "100", "1000"])
@pytest.mark.parametrize("experiment", advised.EXPERIMENTS)
def test_the_advised_arm_is_on_the_front(experiment: str, mbit: str) -> None:
    """Of the arms of an experiment the one advised for a link is not beaten by another in both uplink bytes and rounds to
    the same accuracy, as measured. A tenth more or less is no difference: one seed tells no more."""
    found = {row["uplink"]: row for row in arms(experiment) if row["downlink"] == "none"}
    config, one = read_link(mbit, Config(clients=4, clients_per_round=4))
    here = Round(links_of(one, config), 4, float(next(iter(found.values()))["train_s"]), "residual")
    exact = codec(found["none"])
    chosen: Pair = recommend(here.pairs(map(codec, found.values()), [exact]))
    own = found[chosen.up.cost.spec]
    rounds = float(own["measured_rounds"])
    for row in found.values():
        fewer = int(row["bytes"]) * float(row["measured_rounds"]) < 0.9 * int(own["bytes"]) * rounds
        assert not (fewer and float(row["measured_rounds"]) < 0.9 * rounds), row["arm"]
