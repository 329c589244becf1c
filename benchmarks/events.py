"""`python benchmarks/events.py`: time per event and memory per client of the virtual clock, 100 to 10,000 clients.

Every client is always in flight. The model is one weight, which a client pulls half-way to its own optimum and the server
mixes in as FedAsync does, weighted by staleness. An event is the end of a compute or an arrival; all else a client does
(the start, two link times, the mixing) is counted in. Memory is what the simulator holds, without the model.
"""

import argparse
import csv
import statistics
import time
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path

from common import machine, show

from fl.clock.simulator import Simulator
from fl.common.paths import expanded
from fl.common.seeds import numpy_generator
from fl.rounds.staleness import weight

CLIENTS = (100, 1_000, 10_000)
EVENTS_AN_ARRIVAL = 2
DOWN_BYTES, UP_BYTES = 4_000, 1_000
COLUMNS = ("clients", "events", "us_per_event", "us_low", "us_high", "times_the_first", "bytes_per_client")


class OneWeight:
    """A federation of one weight: `run(arrivals)` goes on by so many."""

    def __init__(self, clients: int) -> None:
        draws = numpy_generator(0, "benchmark", clients)
        self.compute_s = array("d", draws.lognormal(0, 1, clients))
        self.byte_s = array("d", 1e-5 * draws.lognormal(0, 1, clients))
        self.optimum = array("d", draws.normal(size=clients))
        self.base = array("d", bytes(8 * clients))  # the weight that a client started from, later the one it trained
        self.version_of = array("q", bytes(8 * clients))
        self.weight, self.version = 0.0, 0
        self.simulator = Simulator(self.link, self.train)
        for client in range(clients):
            self.simulator.start(client, 0.0, DOWN_BYTES, self.compute_s[client])

    def link(self, client: int, direction: str, number: int, size: int) -> float:
        """Seconds of a transfer: each client's own rate."""
        return 0.01 + size * self.byte_s[client]

    def train(self, client: int) -> int:
        """Half-way to the client's optimum."""
        self.base[client] += (self.optimum[client] - self.base[client]) / 2
        return UP_BYTES

    def run(self, arrivals: int) -> None:
        """So many arrivals, each mixed in and started anew."""
        for _ in range(arrivals):
            arrival = self.simulator.next_arrival()
            assert arrival is not None
            client = arrival.client
            mixing = 0.1 * weight("poly:0.5", self.version - self.version_of[client])
            self.weight += mixing * (self.base[client] - self.weight)
            self.version += 1
            self.base[client], self.version_of[client] = self.weight, self.version
            self.simulator.start(client, arrival.time, DOWN_BYTES, self.compute_s[client])


def held_bytes(build: Callable[[], Simulator]) -> int:
    """Bytes that a simulator holds once built."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = build()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept.in_flight
    return held


def busy(clients: int) -> Simulator:
    """A simulator with so many clients in flight, each of which has arrived about once."""
    simulator = Simulator(lambda client, direction, number, size: 1.0 + client % 7, lambda client: UP_BYTES)
    for client in range(clients):
        simulator.start(client, 0.0, DOWN_BYTES, client % 11 + 0.5)
    for _ in range(clients):
        arrival = simulator.next_arrival()
        assert arrival is not None
        simulator.start(arrival.client, arrival.time, DOWN_BYTES, arrival.client % 11 + 0.5)
    return simulator


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="of each number of clients")
    parser.add_argument("--slices", type=int, default=20, help="parts of the events, timed in turn")
    parser.add_argument("--out", type=expanded, default=Path(__file__).parent / "results" / "events.csv")
    options = parser.parse_args()
    arrivals = max(1, options.events // options.slices // EVENTS_AN_ARRIVAL)

    models = {clients: OneWeight(clients) for clients in CLIENTS}
    seconds: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    # In turn, so that a neighbour's load on the machine falls on all alike.
    for _ in range(options.slices):
        for clients, model in models.items():
            started = time.perf_counter()
            model.run(arrivals)
            seconds[clients].append(time.perf_counter() - started)

    rows = []
    for clients in CLIENTS:
        per_event = sorted(1e6 * each / (arrivals * EVENTS_AN_ARRIVAL) for each in seconds[clients])
        rows.append(
            {
                "clients": clients,
                "events": arrivals * EVENTS_AN_ARRIVAL * options.slices,
                "us_per_event": round(statistics.median(per_event), 3),
                "us_low": round(per_event[0], 3),
                "us_high": round(per_event[-1], 3),
                "bytes_per_client": round(held_bytes(lambda: busy(clients)) / clients),  # noqa: B023
            }
        )
    for row in rows:
        row["times_the_first"] = round(row["us_per_event"] / rows[0]["us_per_event"], 2)
    with open(options.out, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    columns = ["clients", "events", "µs an event (median)", "least", "most", "times the first", "bytes a client"]
    show(
        f"Events on the virtual clock; {machine()}",
        columns,
        [[f"{row[column]:,}" for column in COLUMNS] for row in rows],
    )


if __name__ == "__main__":
    main()
