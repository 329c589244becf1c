"""What `leanfed advise` expects of the codecs of the committed experiments, beside what their runs have shown.

`python "Bandwidth Analysis/advised.py" --data-dir DATA` writes advised.csv: of each arm, the bytes of a message, seconds
here, how much is behind, and how many rounds it takes for one of the dense arm: expected, and measured on the committed
curves.csv.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from fl.advise.confirm import rounds_until
from fl.advise.measure import measure_downlink, measure_uplink
from fl.advise.updates import recorded
from fl.common.config import Config
from fl.common.paths import expanded
from fl.experiment.spec import read_experiment
from fl.training.tasks.score import score_of

HERE = Path(__file__).parent
EXPERIMENTS = ("codecs", "codecs_more", "cifar10_pfl_cnn", "lowcomm_codecs")
"""Folders here, and files of the same names."""


def measured_rounds(folder: Path) -> dict[str, float]:
    """By arm, the median over seeds and evaluated rounds of its rounds over those in which the dense arm had as good a
    validation score; rounds at which it was better than all that dense ever had do not count."""
    curves: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with open(folder / "curves.csv", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        score = score_of(reader.fieldnames or ())
        for row in reader:
            gain = score.gain(float(row[score.columns[0]]))
            curves[row["arm"], row["seed"]].append((float(row["round"]) + 1, gain))
    found: dict[str, list[float]] = defaultdict(list)
    for (arm, seed), points in curves.items():
        rounds, dense = np.array(points), np.array(curves["dense", seed])
        found[arm] += [
            at / rounds_until(dense[:, 0], dense[:, 1], gain)
            for at, gain in rounds
            if dense[0, 1] <= gain <= dense[:, 1].max()
        ]
    return {arm: float(np.median(ratios)) for arm, ratios in found.items() if ratios}


def rows(folder: str, data_dir: str) -> list[dict[str, Any]]:
    """A row an arm."""
    experiment = read_experiment(HERE.parent / "experiments" / f"{folder}.yaml")
    shown, found = measured_rounds(HERE / folder), []
    options = {**experiment.base, "data_dir": data_dir, "threads": 1}
    rounds = {"rounds": 40} if "rounds" in experiment.vary else {}
    with recorded(Config(**{**options, **rounds}), frozenset(options)) as recording:
        for arm in experiment.arms:
            feedback = arm.varied.get("error_feedback", experiment.base.get("error_feedback", "residual"))
            down = arm.varied.get("downlink", "none")
            one = measure_uplink(recording, ["none", arm.varied["uplink"]], feedback)[-1]
            other = measure_downlink(recording, ["none", down], feedback)[-1]
            found.append({
                "experiment": folder,
                "arm": arm.name,
                "uplink": one.cost.spec,
                "downlink": down,
                "error_feedback": feedback,
                "bytes": one.cost.payload_bytes,
                "train_s": f"{recording.train_s:.3g}",
                "coding_s": f"{one.cost.encode_s + one.cost.decode_s:.3g}",
                "behind": f"{one.behind:.4f}",
                "behind_down": f"{other.behind:.4f}",
                "expected_rounds": f"{one.rounds * other.rounds:.3f}",
                "measured_rounds": f"{shown[arm.name]:.3f}" if arm.name in shown else "",
            })  # fmt: skip
    return found


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=expanded, default="data", help="folder with CIFAR-10, MNIST and Shakespeare")
    options = parser.parse_args()
    table = [row for folder in EXPERIMENTS for row in rows(folder, str(options.data_dir))]
    with open(HERE / "advised.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
