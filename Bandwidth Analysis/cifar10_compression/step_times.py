"""Computing and communication of a step, arm by arm, from the run folders of experiments/cifar10_compression.yaml.

Every round there is one step of each client. `compute` is the median `train_s` of clients.csv: a client's forward and
backward pass, its step, and reading off the update, until the last loss has been read from the device. `communicate` is the
median `exchange_s` of metrics.csv: encoding, sending, decoding, the server's step, its broadcast, applying it; of all
clients of the busiest rank. Bytes are the medians of a client and step (the last step also pays for the final model).
`transfer_ms_100_mbit` is no measurement: what these bytes take on a link of 100 Mbit/s of the client's own, both ways. The
first steps of a run pay for warming up and do not count. Writes step_times.csv and prints it.
"""

import argparse
import csv
import statistics
from pathlib import Path

from fl.common.errors import ConfigError
from fl.common.paths import expanded
from fl.experiment.matrix import matrix
from fl.experiment.spec import read_experiment

WARM_UP = 5  # steps


def rows_of(path: Path) -> list[dict[str, str]]:
    """A csv file's rows from the first step that counts."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["round"]) >= WARM_UP]


def step_times(folder: Path) -> dict[str, float]:
    """The figures of one run: milliseconds and bytes; ValueError for a run that is too short."""
    rounds, clients = rows_of(folder / "metrics.csv"), rows_of(folder / "clients.csv")
    if not rounds:
        raise ValueError(f"{folder} must have more than {WARM_UP} rounds")
    uplink, downlink = (
        statistics.median(int(row[f"{way}_bytes"]) for row in clients) for way in ("uplink", "downlink")
    )
    return {
        "steps": len(rounds),
        "compute_ms": round(1e3 * statistics.median(float(row["train_s"]) for row in clients), 2),
        "communicate_ms": round(1e3 * statistics.median(float(row["exchange_s"]) for row in rounds), 2),
        "ranks": len({row["rank"] for row in clients}),
        "uplink_bytes": int(uplink),
        "downlink_bytes": int(downlink),
        "transfer_ms_100_mbit": round(8e-5 * (uplink + downlink), 2),
    }


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=expanded, default=Path("experiments/cifar10_compression.yaml"))
    parser.add_argument("--runs", default="outputFolder", help="the experiment's --output-dir")
    parser.add_argument("--out", type=expanded, default=Path(__file__).resolve().parent)
    options = parser.parse_args()
    table = []
    try:
        for run in matrix(read_experiment(options.experiment), data_dir="", output_dir=options.runs, threads=None):
            if not (run.folder / "summary.json").exists():
                print(f"{run.folder} is not finished and left out")
                continue
            table.append({"arm": run.arm.name, "seed": run.seed, **step_times(run.folder)})
    except (ConfigError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    if not table:
        raise SystemExit(f"{options.runs} holds no finished run of {options.experiment}: run the experiment first")
    with open(options.out / "step_times.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    print((options.out / "step_times.csv").read_text())


if __name__ == "__main__":
    main()
