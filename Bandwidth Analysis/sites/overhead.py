"""Seconds of a round in which next to nothing is trained: LeanFed on gloo, and on Flower's engine.

`make sites FLOWER=PYTHON` writes overhead.csv. Each client makes one step on one sample of the digits, lenet5,
`topk:0.01+log3+zstd` both ways: what is left is the engine's. gloo: two ranks. Flower: its simulation (a pool of processes,
a call a client), which has room for many clients; and for the fewest, SuperNodes, which start a process for every message.
Medians of all rounds but the first.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import BIN, HERE, ROOT, federation, write_table

from fl.common.paths import expanded
from fl.deploy.__main__ import main as deploy
from fl.output.record import read_metrics


def options(folder: Path, clients: int, rounds: int) -> list[str]:
    """Words of a command line."""
    given = {
        **{
            "dataset": "digits",
            "model": "lenet5",
            "clients": clients,
            "rounds": rounds,
            "local-steps": 1,
            "batch-size": 1,
        },
        **{"uplink": "topk:0.01+log3+zstd", "downlink": "topk:0.01+log3+zstd", "threads": 1, "eval-every": 1000},
        **{"output-dir": folder, "run-name": "run"},
    }
    return [*(f"--{name}={value}" for name, value in given.items()), "--quiet"]


def gloo(folder: Path, clients: int, rounds: int) -> None:
    """Two ranks."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", str(ROOT / "main.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, *options(folder, clients, rounds)], check=True, env=environment, capture_output=True)


def simulated(folder: Path, clients: int, rounds: int) -> None:
    """Flower's simulation."""
    deploy([*options(folder, clients, rounds), str(folder / "app")])
    own = {"FLWR_HOME": str(folder), "FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [BIN / "flwr", "run", folder / "app", "local", "--stream"]
    command += ["--federation-config", f"num-supernodes={clients} client-resources-num-cpus=1"]
    environment = {**os.environ, **own, "PATH": f"{BIN}:{os.environ['PATH']}"}
    subprocess.run(list(map(str, command)), check=True, env=environment, capture_output=True, cwd=folder)
    # It leaves its SuperLink behind, which the next run would find, with this one's folder.
    subprocess.run(["pkill", "-f", "flower-superlink --insecure --simulation"], check=False)


def nodes(folder: Path, clients: int, rounds: int) -> None:
    """A SuperLink and SuperNodes, on links of a gigabit."""
    deploy([*options(folder, clients, rounds), str(folder / "app")])
    with federation(folder, clients, 1000) as machines:
        machines.do("flwr", "run", folder / "app", "trial")
        machines.wait_until((folder / "run" / "summary.json").exists, "the run")


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=expanded, default=HERE)
    args = parser.parse_args()
    engines = [(gloo, clients) for clients in args.clients] + [(simulated, clients) for clients in args.clients]
    rows: list[dict[str, Any]] = []
    for engine, clients in [*engines, (nodes, min(args.clients))]:
        with tempfile.TemporaryDirectory() as place:
            engine(Path(place), clients, args.rounds)
            found = read_metrics(Path(place) / "run")
        row: dict[str, Any] = {"engine": engine.__name__, "clients": clients}
        row["round_s"] = round(statistics.median(each["time_s"] for each in found[1:]), 3)
        row["payload_bytes"] = int(sum(each["uplink_bytes"] + each["downlink_bytes"] for each in found))
        row["engine_bytes"] = int(sum(each.get("engine_bytes") or 0 for each in found))
        rows.append(row)
        sys.stderr.write(f"{row}\n")
    write_table(args.out / "overhead.csv", rows)


if __name__ == "__main__":
    main()
