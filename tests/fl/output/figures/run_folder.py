"""A synthetic run folder, and what its figures' tests look at."""

import csv
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from fl.output.layers import LAYERS

NAMES = [
    "accuracy_vs_round.png",
    "accuracy_vs_bytes.png",
    "bytes_per_round.png",
    "time_per_round.png",
    "partition.png",
    "dashboard.png",
]
METRICS = (
    "round,time_s,train_s,exchange_s,eval_s,checkpoint_s,train_loss,val_loss,val_accuracy,test_accuracy,clients,rejected,samples,"
    "uplink_bytes,downlink_bytes,uplink_dense_bytes,downlink_dense_bytes,uplink_ratio,kept_fraction,update_norm,sparsity,mask_bytes,"
    "virtual_time_s,train_flops,client_memory_bytes"
)
DENSE = 40_000_000


def make_run(folder: Path, *, rounds: int = 4, clients: int = 3, **cells: Any) -> Path:
    """A run folder whose round t sends (t + 1) MB up and DENSE down; `cells` replace whole columns."""
    folder.mkdir()
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, METRICS.split(","))
        writer.writeheader()
        for t in range(rounds):
            row = {
                "round": t,
                "time_s": 4.75 + t,
                "train_s": 3 + t,
                "exchange_s": 1,
                "eval_s": 0.5,
                "checkpoint_s": 0.1,
                "train_loss": 2 / (t + 1),
                "val_loss": 2.1 / (t + 1),
                "val_accuracy": 0.5 + 0.1 * min(t, 2) - 0.01 * t,
                "test_accuracy": 0.4 + 0.1 * t,
                "clients": clients,
                "rejected": 0,
                "samples": 300,
                "uplink_bytes": (t + 1) * 1_000_000,
                "downlink_bytes": DENSE,
                "uplink_dense_bytes": DENSE,
                "downlink_dense_bytes": DENSE,
                "uplink_ratio": 40 / (t + 1),
                "kept_fraction": 0.01,
                "update_norm": 1.5,
                "sparsity": 0.0,
                "mask_bytes": 0,
                "train_flops": 10**12,
                "client_memory_bytes": 10**8,
            }
            writer.writerow(row | cells)
    with (folder / "clients.csv").open("w", newline="") as file:
        file.write("round,client,rank,samples,train_s,uplink_bytes,downlink_bytes\n")
        file.writelines(f"{t},{c},{c % 2},100,1,10,20\n" for t in range(rounds) for c in range(clients))
    labels = [[10 * c + k for k in range(10)] for c in range(clients)]
    (folder / "partition.json").write_text(json.dumps({"labels": labels}))
    config = {"model": "lenet5", "dataset": "digits", "uplink": "topk:0.01", "server": "fedyogi"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def add_layers(folder: Path, names: list[str], rounds: int = 4) -> Path:
    """A layers.csv of `folder`: in round t a tenth of t is pruned of every second layer, and 1 % is sent of each."""
    with (folder / "layers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, LAYERS)
        writer.writeheader()
        for t in range(rounds):
            for at, name in enumerate(names):
                gone = 10 * t * (at % 2)
                cells = (t, name, 100, 100 - gone, gone / 100, 100 - gone, gone / 100, 0.01)
                writer.writerow(dict(zip(LAYERS, cells, strict=True)))
    return folder


def axes_of(draw: Any, run: Any) -> Any:
    axes = Figure().add_subplot()
    draw(axes, run)
    return axes


def line(axes: Any, label: str) -> Any:
    return next(item for item in axes.get_lines() if str(item.get_label()).startswith(label))
