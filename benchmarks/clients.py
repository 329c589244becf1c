"""`python benchmarks/clients.py`: seconds of a round and memory, for few clients and many that keep a residual each.

Two pairs: ResNet-18 and lenet5, each with so many residuals that they do not fit into memory; a client of lenet5 has one
sample. In each pair rounds have as many clients, so that they should take as long. No report is drawn. The first half of the
rounds, in which many clients have no residual yet, does not count.
"""

import argparse
import dataclasses
import multiprocessing
import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import machine, show

from fl.common.config import Config
from fl.common.paths import expanded
from fl.common.sizes import parse_size, say_size
from fl.data import Dataset, Split

RESNET: dict[str, Any] = {
    "model": "resnet18",
    "dataset": "cifar10",
    "clients_per_round": 10,
    "local_steps": 2,
    "batch_size": 16,
    "limit_train": 20_000,
}
LENET: dict[str, Any] = {
    "model": "lenet5",
    "dataset": "clients:mnist_twice",
    "clients_per_round": 100,
    "local_steps": 1,
    "batch_size": 1,
    "val_fraction": 0.0,
}


def mnist_twice(folder: Path) -> Dataset:
    """MNIST with every training sample twice, for more clients than it has samples."""
    from fl.data.mnist import load

    once = load(folder, download=False)
    train = Split(once.train.x.repeat(2, 1, 1, 1), once.train.y.repeat(2))
    return dataclasses.replace(once, train=train)


def run(options: dict[str, Any], folder: str, result: Any) -> None:
    """In a process of its own: tell the median seconds of the later half of the rounds, how many of these waited for
    checkpoints, and the peak of memory in bytes."""
    import fl.output.report
    from fl.output.record import read_metrics
    from fl.run.loop import run as train

    fl.output.report.try_report = lambda *_, **__: None
    config = Config(**options, output_dir=folder, run_name="run", quiet=True, eval_every=10_000, limit_test=100)
    train(dataclasses.replace(config, download=False))
    rows = read_metrics(Path(folder) / "run")[:-1]  # the last one is evaluated
    later = rows[len(rows) // 2 :]
    medians = [statistics.median(row[name] or 0.0 for row in later) for name in ("time_s", "checkpoint_s")]
    result.put((*medians, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure(folder: Path, **options: Any) -> tuple[float, float, int]:
    """`run` in a folder that is deleted afterwards."""
    spawn = multiprocessing.get_context("spawn")
    result = spawn.SimpleQueue()
    with tempfile.TemporaryDirectory(dir=folder) as place:
        process = spawn.Process(target=run, args=(options, place, result))
        process.start()
        process.join()
    found: tuple[float, float, int] = result.get()
    return found


def main() -> None:
    """Print both pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--output-dir", default="outputFolder", help="where the residuals lie while it runs")
    parser.add_argument("--clients", type=int, default=1000, help="with a ResNet-18 each")
    parser.add_argument("--rounds", type=int, default=200, help="of these; ten clients run a tenth")
    parser.add_argument("--budget", default="1GB", help="--state-budget of all")
    parser.add_argument("--small-clients", type=int, default=100_000, help="with a lenet5 each")
    parser.add_argument("--small-rounds", type=int, default=200)
    args = parser.parse_args()
    folder = Path(expanded(args.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    shared = {"data_dir": args.data_dir, "uplink": "topk:0.01", "state_budget": args.budget}
    pairs = [
        ("ResNet-18", RESNET, (10, max(6, args.rounds // 10)), (args.clients, args.rounds)),
        ("lenet5", LENET, (1000, args.small_rounds), (args.small_clients, args.small_rounds)),
    ]
    rows = []
    for name, options, *cases in pairs:
        first = 0.0
        for clients, rounds in cases:
            seconds, waited, memory = measure(folder, **shared, **options, clients=clients, rounds=rounds)
            first = first or seconds
            over = say_size(max(0, memory - parse_size(args.budget)))
            rows.append(
                [name, f"{clients:,}", str(rounds), f"{seconds:.2f}", f"{seconds / first:.2f}", f"{waited:.2f}", over]
            )
    columns = ["model", "clients", "rounds", "s a round", "ratio", "of it for checkpoints", "memory above the budget"]
    show(f"A round of few clients and of many, --state-budget {args.budget}, {machine()}", columns, rows)


if __name__ == "__main__":
    main()
