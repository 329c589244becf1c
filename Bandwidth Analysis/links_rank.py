"""One rank of `measure_links.py`, on its own machine: rank 0 is the server, the others are clients.

    python links_rank.py FOLDER RANK

FOLDER holds job.json and updates.safetensors; rank 0 writes measured.json there.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from links_network import Network, counters
from links_schemes import SCHEMES, WARM_UP, HookScheme, Scheme, alone, send_to_server
from links_update import read_updates
from torch import Tensor

_PORT = 29512
_MOST, _LEAST = 9, 2  # measurements of one scheme on one link


class Machine:
    """A rank with its update, fp32 [n], and the schemes that it has warmed up."""

    def __init__(self, rank: int, ranks: int, update: Tensor) -> None:
        self.rank, self.ranks, self.update = rank, ranks, update
        self.out = torch.zeros_like(update)

    def exchange(self, scheme: Scheme) -> Tensor:
        """One round's updates through `scheme`: float64 [7] of this rank, all ranks at once.

        When it began and ended, seconds of encoding and decoding; bytes of the payload; bytes out of and into the cable.
        """
        x = self.update.clone()
        before = _after_barrier()
        began = time.perf_counter()
        encoded = decoding = began
        size = 0
        if isinstance(scheme, HookScheme):
            scheme.run(x)
            size = scheme.sent_bytes
            decoding = time.perf_counter()
        else:
            payload = scheme.encode(x) if self.rank else None
            encoded = time.perf_counter()
            arrived = send_to_server(payload, self.rank, self.ranks)
            decoding = time.perf_counter()
            for each in arrived:
                scheme.add(each, self.out)
            size = 0 if payload is None else payload.numel()
        ended = time.perf_counter()
        after = _after_barrier()
        sent, received = (now - then for now, then in zip(after, before, strict=True))
        figures = [began, ended, encoded - began, ended - decoding, size, sent, received]
        return torch.tensor(figures, dtype=torch.float64)

    def all_of(self, own: Tensor) -> list[list[float]]:
        """What every rank measured, [ranks, 7]."""
        table = torch.zeros(self.ranks, own.numel(), dtype=torch.float64)
        table[self.rank] = own
        dist.all_reduce(table)
        return table.tolist()

    def latency_s(self) -> float:
        """Median seconds of an exchange whose payloads are one byte."""
        payload = torch.zeros(1, dtype=torch.uint8) if self.rank else None
        seconds = []
        for _ in range(15):
            _after_barrier()
            began = time.perf_counter()
            send_to_server(payload, self.rank, self.ranks)
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds)


def _took_s(table: list[list[float]]) -> float:
    """From the first client's beginning to the last rank's end; all processes of a machine read the same clock."""
    return max(row[1] for row in table) - min(row[0] for row in table[1:])


def _after_barrier() -> tuple[int, int]:
    dist.barrier()
    return counters()


def how_often(size: int, mbit: float, seconds: float) -> int:
    """How many measurements of `size` bytes over a link of `mbit` fit into so many seconds: 2 to 9."""
    return int(min(_MOST, max(_LEAST, seconds // (8 * size / (mbit * 1e6)))))


def measure(
    machine: Machine, network: Network, layout: Any, mbits: list[float], seconds: float
) -> list[dict[str, Any]]:
    """Every scheme on every link; the rows of `links_report.Row` but for the predictions."""
    schemes: dict[str, Scheme] = {}
    sizes, computing = {}, {}
    groups = [dist.new_group([rank]) for rank in range(machine.ranks)]
    for name, make in SCHEMES.items():
        scheme = schemes[name] = make(layout, None)
        for number in range(WARM_UP):
            table = machine.all_of(machine.exchange(scheme))
            if number == 0 and not isinstance(scheme, HookScheme):
                scheme.kept()
        sizes[name] = int(table[1][4])
        if scheme.all_reduce:
            computing[name] = alone(make(layout, groups[machine.rank]), machine.update)[1]
    rows = []
    for mbit in mbits:
        dist.barrier()
        if machine.rank == 0:
            network.limit(mbit)
        latency_s = machine.latency_s()
        for name, scheme in schemes.items():
            repeats = how_often(sizes[name], mbit, seconds)
            tables = [machine.all_of(machine.exchange(scheme)) for _ in range(repeats)]
            took = statistics.median(_took_s(table) for table in tables)
            encode_s = statistics.median(table[1][2] for table in tables)
            decode_s = statistics.median(table[0][3] for table in tables)
            if scheme.all_reduce:
                encode_s, decode_s = computing[name], 0.0
            rows.append(
                {
                    "scheme": name,
                    "all_reduce": scheme.all_reduce,
                    "mbit": mbit,
                    "payload_bytes": int(tables[0][1][4]),
                    "client_tx_bytes": int(statistics.median(table[1][5] for table in tables)),
                    "server_rx_bytes": int(statistics.median(table[0][6] for table in tables)),
                    "encode_s": encode_s,
                    "decode_s": decode_s,
                    "seconds": took,
                    "latency_s": latency_s,
                    "repeats": repeats,
                }
            )
            if machine.rank == 0:
                sys.stderr.write(f"{mbit:g} Mbit/s  {name:<28} {took:9.4f} s\n")
    return rows


def main(folder: Path, rank: int) -> None:
    """Join the others, measure, and write measured.json on rank 0."""
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(1)
    network = Network(job["tag"], job["ranks"])
    layout, updates = read_updates(folder / "updates.safetensors")
    address = f"tcp://{network.address(0)}:{_PORT}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=network.ranks)
    rows = measure(Machine(rank, network.ranks, updates[rank]), network, layout, job["mbits"], job["seconds"])
    if rank == 0:
        (folder / "measured.json").write_text(json.dumps(rows))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
