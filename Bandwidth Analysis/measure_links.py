"""One round's update over real links: seconds and bytes of dense messages, PowerSGD, the usual top-k and ours.

    python "Bandwidth Analysis/measure_links.py" --data-dir data          # root, `ip` and `tc` are needed
    python "Bandwidth Analysis/measure_links.py" --predict-only           # the formula alone, anywhere

A server and its clients are ranks in network namespaces, joined by a switch, every link limited to 10, 100 and 1000
Mbit/s in turn (`links_network`). A row is: every client encodes its update and sends it to rank 0, which decodes and adds
up; or one call of a DDP hook, whose all-reduces bring everybody the average. Nothing goes back down for the former: with
as many bytes down it would take about as long again. Writes links.csv, links.md and links.png.
"""

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from links_network import INTERFACE, network, why_not
from links_report import Row, draw, markdown, table, write_csv
from links_schemes import SCHEMES, alone
from links_update import read_updates, write_updates
from rich.console import Console
from rich.table import Table

from compression.wire import HEADER_BYTES
from fl.common.errors import ConfigError, DataError
from fl.common.paths import expanded
from fl.common.ranks import leave_group

HERE = Path(__file__).parent
_LONGEST_S = 1800


def predict(updates: Path, mbits: Sequence[float], latency_s: float) -> list[dict[str, Any]]:
    """Rows without a measured time: bytes and computing are real, of this process; the links are a formula."""
    layout, (*_, update) = read_updates(updates)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    rows = []
    for name, make in SCHEMES.items():
        scheme = make(layout, None)
        size, encode_s, decode_s = alone(scheme, update)
        common = {"scheme": name, "all_reduce": scheme.all_reduce, "payload_bytes": size, "latency_s": latency_s}
        rows += [{**common, "mbit": mbit, "encode_s": encode_s, "decode_s": decode_s} for mbit in mbits]
    leave_group()
    return rows


def measure(updates: Path, clients: int, mbits: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """Rows of real exchanges; RuntimeError if a rank fails."""
    folder, ranks = updates.parent, clients + 1
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "GLOO_SOCKET_IFNAME": INTERFACE}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    with _ends_by_signal(), network(ranks) as made:
        job = {"tag": made.tag, "ranks": ranks, "mbits": mbits, "seconds": seconds}
        (folder / "job.json").write_text(json.dumps(job))
        started: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(ranks):
                command = [sys.executable, str(HERE / "links_rank.py"), str(folder), str(rank)]
                started.append(subprocess.Popen(made.inside(rank, command), env=environment))
            _wait(started)
        finally:
            for process in started:
                process.kill()
                process.wait()
    return json.loads((folder / "measured.json").read_text())


@contextmanager
def _ends_by_signal() -> Iterator[None]:
    """SIGTERM ends this block as Ctrl-C does, so that the namespaces are removed then too."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(started: Sequence[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _LONGEST_S
    while any(process.poll() is None for process in started):
        if any(process.poll() for process in started) or time.monotonic() > until:
            raise RuntimeError("a rank failed, or took more than half an hour; what it said stands above")
        time.sleep(0.1)
    if any(process.returncode for process in started):
        raise RuntimeError("a rank failed; what it said stands above")


def explain(options: argparse.Namespace, source: str, rows: Sequence[Row], load: float) -> list[str]:
    """What was done, in paragraphs for the Markdown file; `load` is what else the machine was doing."""
    first, ranks = rows[0], options.clients + 1
    floats = (first.payload_bytes - HEADER_BYTES) // 4
    what = f"{options.model}, {floats:,} floats: {source}. {ranks} ranks, gloo, one thread each."
    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()}, torch {torch.__version__}"
    formula = "encode + 8 * bytes / bandwidth + latency + decode, where the bytes are those over the busiest link"
    if options.predict_only:
        return [what, f"Predicted only, nothing was sent: {formula}. Encoding and decoding were measured on {machine}."]
    latencies = ", ".join(f"{1e3 * row.latency_s:.1f} ms at {row.mbit:g}" for row in rows if row.scheme == first.scheme)
    return [
        what,
        "Ranks are Linux network namespaces on one bridge; both ends of each link go through `tc tbf`. Seconds are medians "
        "of 2 to 9 exchanges, from the beginning of encoding to the end of decoding; in brackets is the prediction. The "
        "payload schemes are one message to rank 0 and nothing back; an all-reduce brings everybody the average. How many "
        "times faster and fewer is against dense fp32 payloads in the same run. Our codecs carry the residual of one "
        "message before. Interface bytes are what the kernel counted out of a client's interface at the lowest speed: TCP, "
        "IP and Ethernet headers and two barriers included.",
        f"Predicted: {formula}; headers are not in it, and the latency is an exchange of one byte ({latencies} Mbit/s). "
        f"All ranks share the cores of one machine ({machine}; load average {load:.1f} before it began), which also "
        "carries every packet: what is measured at the highest speed is computing more than the link.",
    ]


def processor() -> str:
    """The CPU's name."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def show(rows: Sequence[Row], title: str) -> None:
    """The table on the terminal."""
    header, *lines = table(rows)
    shown = Table(*header, title=title, title_justify="left", pad_edge=False)
    for line in lines:
        shown.add_row(*line)
    Console(width=max(140, Console().width)).print(shown)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the options, measure or predict, write and show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18", help="a model of the project (default: resnet18)")
    parser.add_argument(
        "--data-dir", type=expanded, help="folder with CIFAR-10 to take real updates from; without it they are noise"
    )
    parser.add_argument("--clients", type=int, default=1, help="clients beside the server, a rank each (default: 1)")
    parser.add_argument("--mbits", type=float, nargs="+", default=[10, 100, 1000], help="speeds of the links, Mbit/s")
    parser.add_argument(
        "--seconds",
        type=float,
        default=30,
        help="what one scheme may take on one link (default: 30), at least two exchanges",
    )
    parser.add_argument("--output", type=expanded, default=HERE / "links", help="folder for the results")
    parser.add_argument("--predict-only", action="store_true", help="no links: the formula alone, marked as such")
    parser.add_argument("--latency-ms", type=float, default=0, help="with --predict-only: latency of the links")
    options = parser.parse_args(argv)
    if not 1 <= options.clients <= 200:
        parser.error(f"--clients {options.clients} must be from 1 to 200")
    for mbit in options.mbits:
        if not 0 < mbit < math.inf:
            parser.error(f"--mbits {mbit:g} must be a number above 0")
    for option, value in (("--seconds", options.seconds), ("--latency-ms", options.latency_ms)):
        if not 0 <= value < math.inf:
            parser.error(f"{option} {value:g} must be a number of 0 or more")
    reason = None if options.predict_only else why_not()
    if reason is not None:
        parser.exit(2, f"error: real links need network namespaces, and {reason}; --predict-only does without\n")
    if not options.predict_only:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--output {options.output} must be a folder to write to ({error.strerror})")
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        updates = Path(folder, "updates.safetensors")
        try:
            source = write_updates(options.model, options.data_dir, options.clients + 1, updates)
            if options.predict_only:
                found = predict(updates, options.mbits, options.latency_ms / 1e3)
            else:
                found = measure(updates, options.clients, options.mbits, options.seconds)
        except KeyboardInterrupt:
            parser.exit(130, "interrupted; the links are gone\n")
        except (ConfigError, DataError, RuntimeError) as error:
            parser.exit(2, f"error: {error}\n")
    rows = [Row(**row, clients=options.clients) for row in found]
    words = explain(options, source, rows, load)
    show(rows, "Predicted only, nothing was sent" if options.predict_only else "Real links")
    Console().print(*words, sep="\n", markup=False, highlight=False)
    if options.predict_only:
        return
    write_csv(rows, options.output / "links.csv")
    (options.output / "links.md").write_text(markdown(rows, words), encoding="utf-8")
    draw(rows, options.output / "links.png", f"{words[0]} Marks: measured; dotted: predicted")


if __name__ == "__main__":
    main()
