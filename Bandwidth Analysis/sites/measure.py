"""Rounds of three sites on slow links, on Flower's engine with TLS and known nodes: dense, compressed, and Flower's FedAvg.

`make sites FLOWER=PYTHON DATA=DIR` writes measured.csv; PYTHON is of an environment with flwr 1.42. Server and sites are
network namespaces on one bridge, and both ends of each link go through `tc tbf` (links_network.py), so the server's link
carries all of the sites' traffic. Kernel bytes are what went through the server's interface, both ways: TCP, TLS, HTTP and
Flower's signs of life included. Seconds are medians of all rounds but the first, in which sites get the model. Needs root.
"""

import argparse
import contextlib
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from links_network import INTERFACE, Network, network, why_not

from fl.common.paths import expanded
from fl.deploy.__main__ import main as deploy
from fl.deploy.certificates import write_certificates
from fl.output.record import read_metrics

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PORT, NODE_PORT = 9443, 9100
BIN = Path(sys.executable).parent
ARMS = {
    "dense": ("none", "none"),
    "topk:0.01+log3+zstd both ways": ("topk:0.01+log3+zstd", "topk:0.01+log3+zstd"),
}
PEER = "Flower's FedAvg"


@dataclass
class Machines:
    """Programs on the machines of a network, of which 0 is the server's."""

    net: Network
    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, rank: int, name: str, *words: str | Path) -> None:
        """Start a program, with a log of its own."""
        with open(self.folder / f"{name}.log", "wb") as log:
            self.running.append(
                subprocess.Popen(
                    self.net.inside(rank, list(map(str, words))),
                    cwd=self.folder,
                    env=self._environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def do(self, *words: str | Path) -> None:
        """A command at the server, to its end."""
        command = self.net.inside(0, list(map(str, words)))
        subprocess.run(command, cwd=self.folder, env=self._environment, check=True, stdout=subprocess.DEVNULL)

    def wait_until(self, true: Callable[[], object], what: str, seconds: float = 1200) -> None:
        """RuntimeError with the end of every log if it takes longer."""
        ends = time.monotonic() + seconds
        while not true():
            if time.monotonic() > ends:
                logs = [path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.log")]
                raise RuntimeError("\n".join([f"waited {seconds} s for {what}", *logs]))
            time.sleep(0.2)

    def moved(self) -> int:
        """Bytes through the server's interface so far, both ways."""
        files = [f"/sys/class/net/{INTERFACE}/statistics/{way}_bytes" for way in ("tx", "rx")]
        told = subprocess.run(self.net.inside(0, ["cat", *files]), check=True, capture_output=True, text=True)
        return sum(map(int, told.stdout.split()))

    def end(self) -> None:
        """End all programs and what they have started."""
        for process in reversed(self.running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def _environment(self) -> dict[str, str]:
        own = {
            "FLWR_HOME": str(self.folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        return {**os.environ, **own, "PATH": f"{BIN}:{os.environ['PATH']}"}


@contextlib.contextmanager
def federation(folder: Path, sites: int, mbit: float) -> Iterator[Machines]:
    """A SuperLink and a SuperNode at each site, registered and connected."""
    keys = folder / "keys"
    write_certificates(keys, [Network.address(0)], sites, 1)
    with network(sites + 1) as net:
        machines = Machines(net, folder)
        net.limit(mbit)
        try:
            server, log = f"{net.address(0)}:{PORT}", folder / "link.log"
            (folder / "config.toml").write_text(
                f'[superlink.trial]\naddress = "{server}"\nroot-certificates = "{keys / "ca.crt"}"\n'
            )
            machines.start(0, "link", folder / "app" / "superlink.sh", keys, "--host", "0.0.0.0", "--port", str(PORT))
            machines.wait_until(lambda: "running on" in log.read_text(), "the SuperLink", 120)
            for site in range(sites):
                machines.do(
                    "flwr", "supernode", "register", keys / f"site-{site}.pub", "trial", "--name", f"site-{site}"
                )
                words = (str(site), f'state-dir="{folder}/sites"', "--port", str(NODE_PORT))
                machines.start(site + 1, f"node-{site}", folder / "app" / "supernode.sh", keys, server, *words)
            activated = f"{folder / 'link.log'}"
            machines.wait_until(
                lambda: Path(activated).read_text().count("Activated node_id") == sites, "the SuperNodes", 120
            )
            yield machines
        finally:
            machines.end()


def ours(folder: Path, up: str, down: str, args: argparse.Namespace) -> dict[str, Any]:
    """A run of LeanFed."""
    write_app(folder, up, down, args)
    with federation(folder, args.sites, args.mbit) as machines:
        before = machines.moved()
        machines.do("flwr", "run", folder / "app", "trial")
        finals = "sites/*/client-*/final_model.safetensors"
        machines.wait_until(lambda: len(list(folder.glob(finals))) == args.sites, "the final model at every site")
        moved = machines.moved() - before
    rows = read_metrics(folder / "run")
    payload = int(sum(row["uplink_bytes"] + row["downlink_bytes"] for row in rows))
    engine = int(sum(row["engine_bytes"] for row in rows))
    return figures([row["time_s"] for row in rows], payload, engine, moved)


def write_app(folder: Path, up: str, down: str, args: argparse.Namespace) -> None:
    """What `leanfed deploy` writes."""
    options = {
        **{
            "dataset": "cifar10",
            "data-dir": args.data_dir,
            "model": "pfl_cnn",
            "clients": args.sites,
            "rounds": args.rounds,
        },
        **{
            "local-steps": args.steps,
            "batch-size": 32,
            "lr": 0.02,
            "augment": "none",
            "threads": 1,
            "precision": "bf16",
        },
        **{"uplink": up, "downlink": down, "limit-test": 100, "eval-every": 1000, "val-fraction": 0},
        **{"output-dir": folder, "run-name": "run", "cache-dir": folder.parent / "cache"},
    }
    deploy([*(f"--{name}={value}" for name, value in options.items()), "--quiet", str(folder / "app")])


def peer(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A run of Flower's FedAvg; its payload is the model's arrays, both ways, as Flower serialises them."""
    write_app(folder, "none", "none", args)  # for the scripts that start the programs
    out = folder / "seconds.json"
    given = {
        "data-dir": f'"{args.data_dir}"',
        "out": f'"{out}"',
        "rounds": args.rounds,
        "sites": args.sites,
        "steps": args.steps,
    }
    words = " ".join(f"{name}={value}" for name, value in given.items())
    with federation(folder, args.sites, args.mbit) as machines:
        before = machines.moved()
        machines.do("flwr", "run", HERE / "fedavg", "trial", "--run-config", words)
        machines.wait_until(out.exists, "Flower's FedAvg")
        moved = machines.moved() - before
    return figures(json.loads(out.read_text()), None, None, moved)


def figures(seconds: Sequence[float], payload: int | None, engine: int | None, moved: int) -> dict[str, Any]:
    """A row's figures."""
    return {
        "round_s": round(statistics.median(seconds[1:]), 1),
        "least_s": round(min(seconds[1:]), 1),
        "payload_bytes": payload,
        "engine_bytes": engine,
        "kernel_bytes": moved,
    }


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the same columns, and print them."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(path.read_text(encoding="utf-8"))


def main() -> None:
    """Measure all three, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=lambda text: expanded(text).resolve(), default=Path("data"))
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--mbit", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="local steps of 32 samples")
    parser.add_argument("--out", type=expanded, default=HERE)
    args = parser.parse_args()
    if reason := why_not():
        raise SystemExit(f"no real links can be made: {reason}")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate([*ARMS, PEER]):
            folder = Path(place) / str(number)
            folder.mkdir()
            row = peer(folder, args) if name == PEER else ours(folder, *ARMS[name], args)
            rows.append({"arm": name, **row})
            sys.stderr.write(f"{rows[-1]}\n")
    write_table(args.out / "measured.csv", rows)


if __name__ == "__main__":
    main()
