"""Mean test accuracy over the last rounds of runs, as Reddi et al. (2020) report: `last_rounds.py RUN... [--rounds N]`."""

import argparse
import csv
import statistics
from pathlib import Path


def evaluations(folder: Path, last: int) -> list[tuple[int, float]]:
    """(round, test accuracy) of the evaluated ones among the last `last` rounds that metrics.csv holds.

    OSError without a metrics.csv, ValueError for one without an evaluated round among them.
    """
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [(int(row["round"]), float(row["test_accuracy"])) for row in rows[-last:] if row["test_accuracy"]]
    if not found:
        raise ValueError(f"{folder}: none of the last {last} of {len(rows)} rounds was evaluated")
    return found


def main() -> None:
    """Print a line a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--rounds", type=int, default=100, metavar="N", help="so many of the last rounds")
    options = parser.parse_args()
    if options.rounds < 1:
        raise SystemExit(f"--rounds {options.rounds} must be at least 1")
    for folder in options.runs:
        try:
            found = evaluations(folder, options.rounds)
        except (OSError, ValueError) as error:
            raise SystemExit(str(error)) from None
        mean = statistics.fmean(accuracy for _, accuracy in found)
        state = "" if (folder / "summary.json").exists() else ", not finished"
        print(
            f"{folder.name}: {100 * mean:.2f} % test accuracy, mean of {len(found)} evaluations from round {found[0][0]} to "
            f"{found[-1][0]}{state}"
        )


if __name__ == "__main__":
    main()
