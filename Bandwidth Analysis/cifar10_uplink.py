"""`make bandwidth`: what four uplinks cost and reach on real CIFAR-10, side by side.

ResNet-18 (GroupNorm), four clients, IID, 10,000 training images of which a tenth is held out for validation, ten rounds of
one local epoch, FedAvg. The arms differ in `--uplink` alone. An arm that was interrupted goes on where it was.
"""

import argparse
import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fl.config import Config
from fl.record import read_metrics
from fl.run import run

ARMS = ("none", "topk:0.01", "topk:0.01+bf16", "prune:0.99")
SETTING = Config(
    dataset="cifar10",
    limit_train=10_000,
    model="resnet18",
    norm="group",
    clients=4,
    rounds=10,
    local_epochs=1,
    batch_size=64,
    lr=0.02,
    clip_norm=1.0,
    momentum=0.9,
    server="fedavg",
    precision="bf16",
    eval_every=2,
    checkpoint_every=2,
    resume="auto",
)
FOLDER = Path(__file__).resolve().parent / "cifar10_uplink"


def folder_of(uplink: str, output_dir: str) -> Path:
    """The run folder of an arm."""
    return Path(output_dir) / ("cifar10_uplink-" + uplink.replace(":", "_").replace("+", "_"))


def run_arm(uplink: str, data_dir: str, output_dir: str, threads: int) -> Path:
    """Run one arm to its end and return its run folder."""
    folder = folder_of(uplink, output_dir)
    config = dataclasses.replace(
        SETTING, uplink=uplink, data_dir=data_dir, output_dir=output_dir, run_name=folder.name, threads=threads
    )
    run(config, explicit=frozenset({"uplink", "data_dir", "output_dir", "run_name"}))
    return folder


def row_of(uplink: str, folder: Path) -> dict[str, Any]:
    """One line of the table."""
    summary = json.loads((folder / "summary.json").read_text())
    options = json.loads((folder / "config.json").read_text())
    return {
        "uplink": uplink,
        "seed": options["seed"],
        "rounds": summary["rounds"],
        "final_test_accuracy": round(summary["final_test_accuracy"], 4),
        "best_val_test_accuracy": round(summary["best_val_test_accuracy"], 4),
        "uplink_bytes": summary["total_uplink_bytes"],
        "downlink_bytes": summary["total_downlink_bytes"],
        "uplink_ratio": round(summary["uplink_ratio"], 1),
        "seconds": round(summary["seconds"]),
        "model_sha256": summary["model_sha256"],
    }


def draw(folders: dict[str, Path], path: Path) -> None:
    """Test accuracy against rounds and against megabytes sent."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    by_round, by_bytes = figure.subplots(1, 2, sharey=True)
    for uplink, folder in folders.items():
        sent, rounds, megabytes, accuracy = 0.0, [], [], []
        for row in read_metrics(folder):
            sent += (row["uplink_bytes"] or 0) / 1e6
            if row["test_accuracy"] is not None:
                rounds.append((row["round"] or 0) + 1)
                megabytes.append(sent)
                accuracy.append(100 * row["test_accuracy"])
        by_round.plot(rounds, accuracy, marker="o", label=uplink)
        by_bytes.plot(megabytes, accuracy, marker="o", label=uplink)
    by_round.set(xlabel="rounds", ylabel="test accuracy (%)", title="by rounds")
    by_bytes.set(xlabel="uplink so far, all clients (MB, log scale)", xscale="log", title="by bytes")
    for axes in (by_round, by_bytes):
        axes.grid(alpha=0.3)
    by_round.legend(title="--uplink")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the arms that are asked for, then tabulate and draw those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data", help="folder with CIFAR-10")
    parser.add_argument("--output-dir", default="outputFolder", help="where the run folders go")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the last bits of a result depend on it")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS, help="only these uplinks")
    options = parser.parse_args()
    for uplink in options.arms:
        run_arm(uplink, options.data_dir, options.output_dir, options.threads)
    folders = {uplink: folder_of(uplink, options.output_dir) for uplink in ARMS}
    folders = {uplink: folder for uplink, folder in folders.items() if (folder / "summary.json").exists()}
    FOLDER.mkdir(exist_ok=True)
    rows = [row_of(uplink, folder) for uplink, folder in folders.items()]
    with open(FOLDER / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(folders, FOLDER / "accuracy.png")


if __name__ == "__main__":
    main()
