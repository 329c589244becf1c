"""What the schemes of experiments/lowcomm.yaml take over links of several speeds, from results.csv and `--step-ms`.

A link is each client's own, as fast up as down; the server's is as fast as all of them together. A round takes its local
steps and both transfers, one after the other; with `--overlap` the transfers go on during the next round's local steps, and
it takes what is longer of the two. Encoding and decoding do not count: they took under a hundredth of a step. Writes
seconds.csv, medians over seeds.
"""

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path

from fl.common.paths import expanded

HERE = Path(__file__).resolve().parent
MBIT = (1, 10, 100, 1000)


def seconds(row: dict[str, str], mbit: float, step_s: float, *, to_target: bool) -> float:
    """Of one run, until its end or until the target, which every run has reached."""
    rounds = int(row["rounds_to_target" if to_target else "rounds"])
    suffix = "_to_target" if to_target else ""
    moved = sum(int(row[f"{way}_bytes{suffix}"]) for way in ("uplink", "downlink")) / int(row["clients"])
    training, sending = rounds * int(row["local_steps"]) * step_s, 8 * moved / (1e6 * mbit)
    return max(training, sending) if row["overlap"] == "True" else training + sending


def table(rows: list[dict[str, str]], step_s: float) -> list[dict[str, str | float]]:
    """A row an arm; one client alone sends nothing to anybody and is left out."""
    arms = defaultdict(list)
    for row in rows:
        if int(row["clients"]) > 1:
            arms[row["arm"]].append(row)
    found: list[dict[str, str | float]] = []
    for arm, runs in arms.items():
        score = statistics.median(float(run["final_val_bits_per_byte"]) for run in runs)
        line: dict[str, str | float] = {"arm": arm, "val_bits_per_byte": round(score, 3)}
        for to_target, name in ((False, "s"), (True, "s_to_target")):
            for mbit in MBIT:
                times = [seconds(run, mbit, step_s, to_target=to_target) for run in runs]
                line[f"{name}_{mbit}_mbit"] = round(statistics.median(times), 1)
        found.append(line)
    return found


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step-ms", type=float, default=60.0, help="of one local step (60: on one core, measured)")
    parser.add_argument("--out", type=expanded, default=HERE)
    options = parser.parse_args()
    with open(HERE / "results.csv", newline="", encoding="utf-8") as file:
        found = table(list(csv.DictReader(file)), options.step_ms / 1e3)
    with open(options.out / "seconds.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    print((options.out / "seconds.csv").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
