"""`--profile`. Oracles: the same run without it; sums of seconds; what a trace of so many rounds can hold at most."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import fl.run.profile
from compression.phases import PHASES
from fl.output.figures.run_data import read_run
from fl.output.html.run_page import write_run_page
from tests.support import resume_here, rows, run_here, run_on_ranks

ROUNDS = {"rounds": 4, "clients": 2, "local_steps": 3, "limit_train": 64, "limit_test": 32, "uplink": "topk:0.1"}
LOCAL = {"data", "forward", "backward", "optimizer"}
CODEC = {"select", "code", "decode"}


def seconds(folder: Path) -> list[dict[str, float]]:
    """The rows of phases.csv."""
    return [{name: float(cell) for name, cell in row.items()} for row in rows(folder, "phases", ())]


def passed(folder: Path) -> set[str]:
    """The phases that took any time on every rank, over all rounds; the rows of each round add up to its `time_s`."""
    table, times = seconds(folder), [float(row["time_s"]) for row in rows(folder, "metrics", ())]
    for row in table:
        parts = [row[f"{name}_s"] for name in (*PHASES, "other")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(row["time_s"])
        if row["rank"] == 0:
            assert row["time_s"] == pytest.approx(times[int(row["round"])])
    ranks = {row["rank"] for row in table}
    return {name for name in PHASES if all(any(row[f"{name}_s"] for row in table if row["rank"] == r) for r in ranks)}


def trace(folder: Path, round_: int = 1, rank: int = 0) -> Counter[str]:
    """How often each event is in the trace that begins with this round."""
    events = json.loads(gzip.decompress((folder / f"trace-round{round_}-rank{rank}.json.gz").read_bytes()))
    return Counter(event["name"] for event in events["traceEvents"] if event.get("ph") == "X")


def same_run(one: Path, other: Path) -> None:
    """Model, bytes and tables are the same."""
    models = [json.loads((folder / "summary.json").read_text())["model_sha256"] for folder in (one, other)]
    assert models[0] == models[1]
    for table in ("metrics", "clients"):
        assert rows(one, table) == rows(other, table)


def test_seconds_and_trace_of_a_run(tmp_path: Path) -> None:
    """The same bits; the phases of each round add up to its `time_s`; the trace has rounds 1 and 2 of 4: 2 clients with 3
    steps each. The report has the table."""
    run_here(tmp_path, "off", **ROUNDS)
    run_here(tmp_path, "on", **ROUNDS, profile=True)
    same_run(tmp_path / "off", tmp_path / "on")
    assert not list((tmp_path / "off").glob("*phases*")) + list((tmp_path / "off").glob("trace*"))
    assert [row["round"] for row in seconds(tmp_path / "on")] == [0, 1, 2, 3]
    assert passed(tmp_path / "on") == set(PHASES)
    seen = trace(tmp_path / "on")
    assert {name: seen[name] for name in LOCAL} == dict.fromkeys(LOCAL, 2 * 2 * 3)
    assert seen.keys() >= set(PHASES)
    assert seen["aten::convolution"] > 0
    page = write_run_page(tmp_path / "on", read_run(tmp_path / "on"), []).read_text()
    assert "rounds 0 to 3" in page
    assert "evaluation" in page


@pytest.mark.parametrize(("whole", "most", "steps"), [(2, 10_000, 2), (100, 9, None)])
def test_a_trace_stays_small(
    whole: int, most: int, steps: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 12 local steps it has the operators of the first two, and the exchange all the same; or it ends after so many
    phases in all."""
    monkeypatch.setattr(fl.run.profile, "_WHOLE", whole)
    monkeypatch.setattr(fl.run.profile, "_MOST", most)
    run_here(tmp_path, "run", **ROUNDS, profile=True)
    seen = trace(tmp_path / "run")
    if steps is None:
        assert sum(seen[name] for name in PHASES) <= most + 1
    else:
        assert seen["forward"] == steps
        assert seen["ConvolutionBackward0"] == steps * 2  # layers of lenet5
        assert seen.keys() >= CODEC
    assert passed(tmp_path / "run") >= LOCAL | CODEC


def test_modes_on_two_ranks(tmp_path: Path) -> None:
    """Each way to exchange on two ranks: the same bits, all phases that it has on both ranks, and a trace of each."""
    modes: dict[str, dict[str, Any]] = {
        "sync": {},
        "buffered": {"mode": "buffered:1", "profiles": "good"},
        "hook": {"exchange": "hook"},
        "step": {"mode": "step"},
    }
    runs = {
        f"{name}-{word}": {**ROUNDS, **options, "rounds": 3, "profile": word == "on"}
        for name, options in modes.items()
        for word in ("off", "on")
    }
    run_on_ranks(2, tmp_path, runs)
    for name in modes:
        folder = tmp_path / f"{name}-on"
        same_run(tmp_path / f"{name}-off", folder)
        assert [(row["round"], row["rank"]) for row in seconds(folder)] == [(t, r) for t in range(3) for r in (0, 1)]
        assert passed(folder) >= LOCAL | CODEC | {"transfer", "evaluation"}
        for rank in (0, 1):
            assert trace(folder, rank=rank).keys() >= LOCAL | CODEC | {"transfer", "evaluation"}


@pytest.mark.parametrize("engine", ["accelerate", "deepspeed"])
def test_engines(engine: str, tmp_path: Path) -> None:
    """The phases of a step that an engine of others takes."""
    run_here(tmp_path, "run", **{**ROUNDS, "rounds": 1}, engine=engine, profile=True)
    assert passed(tmp_path / "run") >= LOCAL
    assert trace(tmp_path / "run", 0)["backward"] == 2 * 3


def test_a_resumed_run(tmp_path: Path) -> None:
    """The table goes on with the run; it begins where `--profile` is given, and ends where it is taken back."""
    begun = {**ROUNDS, "rounds": 2}
    run_here(tmp_path, "on", **begun, profile=True)
    resume_here(tmp_path, "on", rounds=4)
    assert [row["round"] for row in seconds(tmp_path / "on")] == [0, 1, 2, 3]
    assert trace(tmp_path / "on", 1).keys() >= LOCAL
    assert trace(tmp_path / "on", 3).keys() >= LOCAL
    run_here(tmp_path, "late", **begun)
    resume_here(tmp_path, "late", rounds=4, profile=True)
    assert [row["round"] for row in seconds(tmp_path / "late")] == [2, 3]
    resume_here(tmp_path, "late", rounds=5, profile=False)
    assert [row["round"] for row in seconds(tmp_path / "late")] == [2, 3]
    assert len(rows(tmp_path / "late")) == 5
