"""`make bench-peers PFL=PYTHON FLOWER=PYTHON`: a round of the pfl-research benchmark here, in peers, and in a bare loop.

Every contender trains what benchmarks/peers/workload.py says, on the same cores: in one process of all threads, and in a
process a core. They take turns, so that all see the same neighbours on a shared machine; figures are medians over all rounds
but the first of each turn. PYTHON is the interpreter of an environment that has the peer: pfl 0.6.0, flwr[simulation] 1.42.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from common import machine, show

from fl.common.paths import expanded
from fl.output.record import read_metrics

ROOT = Path(__file__).resolve().parents[1]
CORES = os.cpu_count() or 1
BARE, OURS = "bare loop", "LeanFed"


def contenders(pfl: str | None, flower: str | None) -> dict[tuple[str, int], list[str]]:
    """The command line of each, without its arguments, by name and number of processes."""
    here = ROOT / "benchmarks" / "peers"
    found: dict[tuple[str, int], list[str]] = {}
    for processes in dict.fromkeys((1, CORES)):
        launch = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"] if processes > 1 else []
        found[BARE, processes] = [sys.executable, *launch, str(here / "bare.py")]
        found[OURS, processes] = [sys.executable, *launch, str(ROOT / "main.py")]
        if pfl:
            found["pfl-research", processes] = [pfl, *launch, str(here / "pfl_rounds.py")]
            found["pfl-research, bf16", processes] = [pfl, *launch, str(here / "pfl_rounds.py"), "--bf16"]
    if flower:
        found["Flower", CORES] = [flower, str(here / "flower_rounds.py")]
    return found


def measure(name: str, command: list[str], processes: int, data_dir: str, rounds: int) -> list[float]:
    """Seconds of each round that counts; none where a peer has failed, so that its turn does not cost all the others'.
    SystemExit where LeanFed or the bare loop has."""
    threads = max(1, CORES // processes)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks' / 'peers'}",
        "OMP_NUM_THREADS": str(threads),
    }
    with tempfile.TemporaryDirectory() as folder:
        if name == OURS:
            given = {"config": ROOT / "configs" / "pfl_benchmark.yaml", "data-dir": data_dir, "rounds": rounds + 2}
            given |= {"threads": threads, "output-dir": folder, "run-name": "run", "eval-every": 10_000}
            arguments = [f"--{option}={value}" for option, value in given.items()] + ["--quiet"]
        else:
            arguments = [data_dir, str(rounds)]
        done = subprocess.run([*command, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not (lines or name == OURS):
            problem = f"{name}, {processes}: exit status {done.returncode}: {done.stderr[-2000:]}\n"
            if name in (BARE, OURS):
                raise SystemExit(problem)
            sys.stderr.write(problem)
            return []
        if name == OURS:  # the last round is evaluated
            return [row["time_s"] for row in read_metrics(Path(folder) / "run")[1:-1]]
    seconds: list[float] = json.loads(lines[-1])["round_s"]
    return seconds


def main() -> None:
    """Measure in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=expanded, default="data")
    parser.add_argument("--pfl", metavar="PYTHON")
    parser.add_argument("--flower", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5, help="of each turn (Flower: 1)")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    args = parser.parse_args()
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(args.repeats):
        for (name, processes), command in contenders(args.pfl, args.flower).items():
            rounds = 1 if name == "Flower" else args.rounds
            found = measure(name, command, processes, str(args.data_dir), rounds)
            seconds[name, processes] += found
            if found:
                sys.stderr.write(f"{name}, {processes}: {statistics.median(found):.2f} s\n")
    medians = {each: statistics.median(found) for each, found in seconds.items() if found}
    ours = min(median for (name, _), median in medians.items() if name == OURS)
    rows = [
        [name, str(processes), f"{median:.2f}", f"{min(seconds[name, processes]):.2f}", f"{median / ours:.2f}"]
        for (name, processes), median in medians.items()
    ]
    columns = ["", "processes", "s a round, median", "least", "of LeanFed's better"]
    show(f"50 of 1,000 clients, CIFAR-10, CNN of 1.6 million parameters; {machine()}", columns, rows)


if __name__ == "__main__":
    main()
