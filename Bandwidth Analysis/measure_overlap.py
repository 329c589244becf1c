"""Seconds of a round of Streaming DiLoCo over a real link, with and without `--overlap`.

    python "Bandwidth Analysis/measure_overlap.py" --data-dir data      # root, `ip` and `tc` are needed

Two ranks with a client each, in network namespaces whose links carry `--mbit` each way (`links_network`), train the preset
configs/streaming_diloco.yaml. Of every run the medians over all rounds but the first two and the last are printed: `time_s`,
`train_s` and `exchange_s` of metrics.csv; without overlap the exchange is what training leaves of a round, for rank 0 has
done its part when the network has its bytes. Runs take turns, so that what else the machine does concerns both alike.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from links_network import INTERFACE, Network, network, why_not

from fl.common.paths import expanded

ROOT = Path(__file__).parent.parent
_PORT = "29419"


def measure(made: Network, options: argparse.Namespace, folder: Path, *, overlap: bool) -> tuple[float, float, float]:
    """Seconds of a round, of its training and of its exchange; RuntimeError if a rank fails."""
    command = [
        *(sys.executable, "main.py", "--config", "configs/streaming_diloco.yaml", "--clients", "2", "--threads", "1"),
        *("--overlap" if overlap else "--no-overlap", "--local-steps", str(options.steps)),
        *("--data-dir", str(options.data_dir)),
        *("--rounds", str(options.rounds), "--eval-every", "1000", "--checkpoint-every", "0"),
        *("--output-dir", str(folder), "--run-name", f"overlap-{overlap}-{len(list(folder.iterdir()))}", "--quiet"),
    ]
    name, place = command[-2], {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_PORT": _PORT}
    place |= {"MASTER_ADDR": made.address(0), "GLOO_SOCKET_IFNAME": INTERFACE}
    started = [
        subprocess.Popen(made.inside(rank, command), cwd=ROOT, env={**os.environ, **place, "RANK": str(rank)})
        for rank in range(made.ranks)
    ]
    try:
        if any(process.wait() for process in started):
            raise RuntimeError("a rank failed; what it said stands above")
    finally:
        for process in started:
            process.kill()
    with open(folder / name / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))[2:-1]
    whole, train, exchange = (
        statistics.median(float(row[column]) for row in rows) for column in ("time_s", "train_s", "exchange_s")
    )
    return whole, train, exchange if overlap else whole - train


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, measure, and print a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=expanded, required=True, help="folder with Shakespeare")
    parser.add_argument("--mbit", type=float, default=10, help="speed of the links, Mbit/s (default: 10)")
    parser.add_argument("--steps", type=int, default=20, help="local steps of a round (default: 20)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of a run (default: 12)")
    parser.add_argument("--pairs", type=int, default=2, help="runs with and without --overlap (default: 2 of each)")
    options = parser.parse_args(argv)
    reason = why_not()
    if reason is not None:
        parser.exit(2, f"error: real links need network namespaces, and {reason}\n")
    print("overlap  round_s  train_s  exchange_s  sum_s  max_s  round/sum  round/max")
    with tempfile.TemporaryDirectory() as folder, network(2) as made:
        made.limit(options.mbit)
        for overlap in (False, True) * options.pairs:
            whole, train, exchange = measure(made, options, Path(folder), overlap=overlap)
            both, longer = train + exchange, max(train, exchange)
            seconds = f"{whole:7.3f}  {train:7.3f}  {exchange:10.3f}  {both:5.3f}  {longer:5.3f}"
            print(f"{overlap!s:7}  {seconds}  {whole / both:9.2f}  {whole / longer:9.2f}", flush=True)


if __name__ == "__main__":
    main()
