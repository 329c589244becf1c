"""What whole runs are charged. Oracles: a run that was not interrupted, sums over the files, and a count of all messages."""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from compression.wire import dense_bytes
from fl.clock.clock import InFlight
from fl.clock.simulator import Simulator
from fl.common.errors import ConfigError
from fl.rounds.timed import TimedRounds
from tests.support import resume_here, rows, run_here

_COMMON: dict[str, Any] = {
    "model": "tests.user_code:norm_model",
    "clients": 6,
    "clients_per_round": 3,
    "limit_train": 150,
    "local_steps": 1,
    "batch_size": 8,
    "error_feedback": "none",
    "momentum": 0.0,
    "rounds": 5,
}
_TIMED = {"profiles": "mix:good=0.5+2g=0.5,compute=1e8..1e9"}
_MODES: list[dict[str, Any]] = [
    {},
    {"mode": "buffered:2", "staleness": "poly:0.5", **_TIMED},
    {"mode": "buffered:3,latest", "server_up_limit": 1e4, **_TIMED},
    {"mode": "buffered:2", "lost": 0.3, "timeout": 6.0, **_TIMED},
    {"mode": "async:0.6", "server": "fedavg", **_TIMED},
    {"deadline": 1.0, "over_select": 1.5, "lost": 0.2, **_TIMED},
    {"deadline": 0.5, "late": "carry", "staleness": "poly:1", **_TIMED},
]
_SAMPLINGS: list[dict[str, Any]] = [
    {"sampling": text} for text in ("uniform", "samples", "power:4", "diurnal:4,0.6", "diurnal:3s,0.4")
]
_ALGORITHMS: list[dict[str, Any]] = [
    *({"algorithm": text} for text in ("fedavg", "fedprox:0.1", "fednova", "scaffold", "feddyn:0.1")),
    {"error_feedback": "residual", "momentum": 0.9},
    {"error_feedback": "dgc:0.5"},
]
_CODECS: list[dict[str, Any]] = [
    {"uplink": "topk:0.1", "downlink": "topk:0.2+bf16"},
    {"uplink": "int8+zstd", "downlink": "none"},
    {"uplink": "powersgd:1", "downlink": "powersgd:1"},
    {"uplink": "topk:0.2", "downlink": "int8", "uplink_warmup": 3, "server": "fedadam"},
]
_PARTS: list[dict[str, Any]] = [
    *[{}] * 4,
    {"prune": "width:1", "capabilities": "uniform:0.3,1"},
    {"prune": "structured:0", "capabilities": "groups:1.0x2+0.3x4", "recover": "plateau:1", "eval_every": 2},
    {"prune": "magnitude:0.5,protect=vectors", "prune_schedule": "iterative:1,4,1"},
    {"prune": "snip:0.5,by=client", "prune_schedule": "cubic:0,4,2"},
]


def _draw(number: int) -> dict[str, Any]:
    """Options of a random run."""
    generator = random.Random(number)
    options = dict(_COMMON)
    for choice in (_MODES, _SAMPLINGS, _ALGORITHMS, _CODECS, _PARTS):
        options |= generator.choice(choice)
    return options


def _run_some(folder: Path, first: int) -> dict[str, Any]:
    """The first of the random runs from number `first` on whose options go together."""
    for number in range(first, first + 1000):
        options = _draw(number)
        try:
            run_here(folder, "whole", **options)
            return options
        except ConfigError:
            continue
    raise AssertionError("no options go together")


def _ledger(folder: Path) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name.startswith("total_") or name.endswith("_sha256")}


def _check_sums(folder: Path) -> None:
    summary = _ledger(folder)
    for name in ("uplink_bytes", "downlink_bytes"):
        totals = [sum(int(row[name]) for row in rows(folder, table)) for table in ("metrics", "clients")]
        assert totals == [summary[f"total_{name}"]] * 2, name


_CHOSEN: list[dict[str, Any]] = [
    {**_COMMON, **_ALGORITHMS[3], **_CODECS[3], "sampling": "diurnal:4,0.6"},
    {**_COMMON, **_PARTS[5], "uplink": "none", "seed": 3},
    {**_COMMON, **_PARTS[6], "prune": "magnitude:0.5,protect=vectors,rewind", "uplink": "topk:0.1"},
]


@pytest.mark.parametrize("number", range(9))
def test_a_run_in_parts_has_the_ledger_of_a_whole_one(number: int, tmp_path: Path) -> None:
    """Ended after some rounds, extended, and extended again: the same bytes for every client in every round, the same model.
    The files add up."""
    if number < len(_CHOSEN):
        options = _CHOSEN[number]
        run_here(tmp_path, "whole", **options)
    else:
        options = _run_some(tmp_path, 1000 * number)
    stop = 1 + number % 3
    run_here(tmp_path, "parts", **{**options, "rounds": stop})
    _check_sums(tmp_path / "parts")
    ended = _ledger(tmp_path / "parts")
    resume_here(tmp_path, "parts", rounds=stop)
    assert _ledger(tmp_path / "parts") == ended, "the end of a run is charged once"
    resume_here(tmp_path, "parts", rounds=4)
    resume_here(tmp_path, "parts", rounds=options["rounds"])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _ledger(parts) == _ledger(whole), options
    assert rows(parts, "clients") == rows(whole, "clients"), options
    for column in ("uplink_bytes", "downlink_bytes", "uplink_dense_bytes", "downlink_dense_bytes", "uplink_ratio"):
        assert [row[column] for row in rows(parts)] == [row[column] for row in rows(whole)], column
    _check_sums(whole)


_IN_TIME: dict[str, dict[str, Any]] = {
    "buffered": {"mode": "buffered:2", **_TIMED},
    "latest": {"mode": "buffered:3,latest", "sampling": "power:4", **_TIMED},
    "lost": {"mode": "buffered:2", "lost": 0.3, "timeout": 6.0, **_TIMED},
    "no time": {"mode": "buffered:2"},
    "async": {"mode": "async:0.6", "server": "fedavg", **_TIMED},
    "drop": {"deadline": 0.3, "over_select": 2.0, "sampling": "diurnal:9s,0.2", **_TIMED},
    "carry": {"deadline": 0.5, "late": "carry", "lost": 0.2, "timeout": 4.0, **_TIMED},
}


@pytest.mark.parametrize("name", _IN_TIME)
def test_every_message_that_began_is_charged(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted beside the ledger: an upload when the simulated client is asked for its bytes; a download when a client
    starts, unless the server gives up on it before; what a client of the last step still lacks."""
    uploads: list[int] = []
    downloads: dict[tuple[int, int], int] = {}  # of each client's starts
    changes: list[int] = []
    has: dict[int, list[int | None]] = defaultdict(lambda: [None])  # versions that a client had after each download
    last: dict[str, Any] = {}
    ask, start, give_up, step = Simulator._ask, TimedRounds._start, InFlight.give_up, TimedRounds._step

    def missed(rounds: TimedRounds, client: int) -> int:
        state, version = rounds.state, has[client][-1]
        model, buffers = (dense_bytes(each.numel()) for each in (state.parameters, state.buffers))
        if version is None:
            return model + buffers
        return min(sum(changes[version:]) + buffers, model + buffers) if version < len(changes) else 0

    def asking(self: Simulator, time: float, client: int) -> int:
        uploads.append(ask(self, time, client))
        return uploads[-1]

    def starting(self: TimedRounds, client: int) -> None:
        size = missed(self, client)
        start(self, client)
        downloads[client, self.in_flight.number(client)] = size
        has[client].append(len(changes) if client in self._untrained else None)
        last["rounds"] = self

    def giving_up(self: InFlight, client: int) -> None:
        if self.starts[client].begun_s > self.now:
            del downloads[client, self.number(client)]
            has[client].pop()
        give_up(self, client)

    def stepping(self: TimedRounds, *args: Any) -> Any:
        result = step(self, *args)
        changes.append(result.published["change"])
        last["clients"] = {report.client for report in result.reports}
        return result

    monkeypatch.setattr(Simulator, "_ask", asking)
    monkeypatch.setattr(TimedRounds, "_start", starting)
    monkeypatch.setattr(InFlight, "give_up", giving_up)
    monkeypatch.setattr(TimedRounds, "_step", stepping)
    run_here(tmp_path, "run", **{**_COMMON, **_CODECS[0], **_IN_TIME[name], "rounds": 7})
    rounds = last["rounds"]
    flight = rounds.in_flight
    for client, own in flight.starts.items():
        if own.begun_s > flight.now:
            del downloads[client, flight.number(client)]
    final = sum(missed(rounds, client) for client in last["clients"] if has[client][-1] is not None)
    charged = _ledger(tmp_path / "run")
    assert charged["total_uplink_bytes"] == sum(uploads)
    assert charged["total_downlink_bytes"] == sum(downloads.values()) + final
    assert flight.starts or name == "drop"
    _check_sums(tmp_path / "run")
