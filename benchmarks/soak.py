"""`python benchmarks/soak.py`: ranks killed at random moments, and long runs watched from outside.

Kills: three ranks under torchrun, or accelerate launch, with `--max_restarts` and `--resume auto`. A random rank gets
SIGKILL at a random moment, start-up included, several times a run. Every run must end in the `model_sha256` of one that
nobody disturbed.

Rounds: memory, open files and threads of one process that saves a checkpoint after each of 2,000 rounds, sync and buffered.
From round 500 on, when all has happened once, they may grow by GROWTH: a leak of a kilobyte a round would be 1.5 MiB.

Exit status 1 if either fails. Both together take about an hour on two cores.
"""

import argparse
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import machine, show

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
OPTIONS = (
    "--dataset digits --model lenet5 --clients 4 --limit-train 100 --batch-size 16 --local-steps 1 --threads 1 --quiet"
)
MODES = {
    "sync": "--uplink topk:0.1 --downlink topk:0.2+bf16 --server fedyogi",
    "buffered": "--uplink topk:0.1 --mode buffered:2 --profiles mix:good=0.5+2g=0.5",
}
LAUNCHERS = {
    "accelerate launch": "accelerate.commands.launch --multi_gpu --num_processes {ranks} --num_machines 1 "
    "--main_process_port 0",
    "torchrun": "torch.distributed.run --standalone --nproc_per_node {ranks}",
}
RANKS, ROUNDS, KILLS_A_RUN = 3, 40, 5
LOOKS = (50, 500, 1000, 2000)
GROWTH = {"rss_mib": 1.0, "files": 2, "threads": 0}  # a file of a checkpoint, and its folder, may just be open


def main() -> None:
    """Both parts, or one: tables, and csv files beside those of the other benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("kills", "rounds"))
    parser.add_argument("--kills", type=int, default=50)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        good = args.only == "rounds" or soak_kills(Path(folder), args.kills, random.Random(0))
        good = (args.only == "kills" or soak_rounds(Path(folder))) and good
    raise SystemExit(0 if good else 1)


def soak_kills(output: Path, kills: int, chance: random.Random) -> bool:
    """Runs of which ranks are killed, until so many were; whether each ended in the model of one that was left alone."""
    started = time.monotonic()
    start_ranks("torchrun", output, "whole", 0).wait()
    usual_s = time.monotonic() - started
    rows: list[dict[str, Any]] = []
    number = 0
    while len(rows) < kills:
        number += 1
        folder, killed = output / f"run{number}", []
        launcher = list(LAUNCHERS)[number % len(LAUNCHERS)]
        run = start_ranks(launcher, output, folder.name, KILLS_A_RUN)
        while len(killed) < min(KILLS_A_RUN, kills - len(rows)) and run.poll() is None:
            before = rounds_done(folder)
            await_moment(run, folder, chance, usual_s)
            ranks = children(run.pid)
            if ranks:
                rank, done = chance.randrange(len(ranks)), rounds_done(folder)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(ranks[rank], signal.SIGKILL)
                    killed.append(
                        {
                            "run": number,
                            "launcher": launcher,
                            "rank": rank,
                            "rounds_before": before,
                            "rounds_done": done,
                        }
                    )
                while run.poll() is None and set(ranks) & set(children(run.pid)):
                    time.sleep(0.01)  # until the launcher has ended the others
        run.wait()
        same = digest(folder) == digest(output / "whole") != ""
        rows += [{**row, "same_model": int(same)} for row in killed]
        print(f"{folder.name}: {len(killed)} kills, {'the same model' if same else 'ANOTHER MODEL'}", flush=True)
    write("soak_kills.csv", rows)
    starting = [row for row in rows if row["rounds_done"] <= row["rounds_before"] and row["rounds_done"] < ROUNDS]
    ending = [row for row in rows if row["rounds_done"] == ROUNDS]
    moments = {
        "before a round was over, of a start or restart": starting,
        "in a later round": [row for row in rows if row not in starting and row not in ending],
        "after the last round": ending,
        **{f"under {name}": [row for row in rows if row["launcher"] == name] for name in LAUNCHERS},
        "all": rows,
    }
    columns = ["SIGKILL", "kills", "of rank 0", "the same model"]
    table = [
        [moment, len(part), sum(row["rank"] == 0 for row in part), sum(row["same_model"] for row in part)]
        for moment, part in moments.items()
    ]
    show(
        f"{RANKS} ranks, {ROUNDS} rounds, {number} runs; {machine()}",
        columns,
        [[str(cell) for cell in row] for row in table],
    )
    return all(row["same_model"] for row in rows)


def soak_rounds(output: Path) -> bool:
    """A long run of each mode; whether its process grew by no more than GROWTH."""
    rows = []
    for mode in MODES:
        run = start([sys.executable], output, mode, mode, rounds=LOOKS[-1] + 1)
        for look in LOOKS:
            while run.poll() is None and rounds_done(output / mode) < look:
                time.sleep(0.01)
            rows.append({"mode": mode, "round": look, **seen(run.pid), "checkpoint_files": len(files(output / mode))})
            print(rows[-1], flush=True)
        run.wait()
    write("soak_rounds.csv", rows)
    columns = ["mode", "round", "memory MiB", "open files", "threads", "files in checkpoints/"]
    show(machine(), columns, [[str(cell) for cell in row.values()] for row in rows])
    judged = [row for row in rows if row["round"] >= LOOKS[1]]
    first = {row["mode"]: row for row in reversed(judged)}
    return all(row[name] <= first[row["mode"]][name] + allowed for row in judged for name, allowed in GROWTH.items())


def start(launcher: list[str], output: Path, name: str, mode: str, rounds: int) -> subprocess.Popen[bytes]:
    """The program, which takes the run up again if it was begun."""
    own = ["--rounds", str(rounds), "--output-dir", str(output), "--run-name", name, "--resume", "auto"]
    command = [*launcher, "main.py", *OPTIONS.split(), *MODES[mode].split(), *own]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def start_ranks(launcher: str, output: Path, name: str, restarts: int) -> subprocess.Popen[bytes]:
    """The program on all ranks."""
    command = [sys.executable, "-m", *LAUNCHERS[launcher].format(ranks=RANKS).split()]
    return start([*command, "--max_restarts", str(restarts)], output, name, "sync", ROUNDS)


def await_moment(run: subprocess.Popen[bytes], folder: Path, chance: random.Random, usual_s: float) -> None:
    """Until a random moment of a run: every third time while its ranks start, else in one of the rounds to come, or after
    the last."""
    now = time.monotonic()
    if chance.random() < 1 / 3:
        begins, done = now + chance.uniform(0, usual_s / 2), 0
    else:
        begins, done = now, chance.randrange(rounds_done(folder), ROUNDS + 1)
    while run.poll() is None and (time.monotonic() < begins or rounds_done(folder) < done):
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.3))


def children(process: int) -> list[int]:
    """What a process has started and not yet seen end, the oldest first: torchrun's ranks in their order."""
    try:
        return [
            int(word) for task in Path(f"/proc/{process}/task").glob("*/children") for word in task.read_text().split()
        ]
    except OSError:
        return []


def rounds_done(folder: Path) -> int:
    """Rounds in metrics.csv."""
    try:
        return max(0, (folder / "metrics.csv").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def digest(folder: Path) -> str:
    """`model_sha256` of a finished run; empty for one that is not."""
    try:
        return json.loads((folder / "summary.json").read_text())["model_sha256"]
    except OSError:
        return ""


def files(folder: Path) -> list[Path]:
    """The files of all checkpoints."""
    return list((folder / "checkpoints").iterdir())


def seen(process: int) -> dict[str, Any]:
    """Resident memory, open files and threads of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return {
        "rss_mib": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "files": len(list(Path(f"/proc/{process}/fd").iterdir())),
        "threads": int(status["Threads"]),
    }


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """A csv file among the results."""
    with open(RESULTS / name, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
