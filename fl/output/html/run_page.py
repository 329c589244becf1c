"""report.html of a run: its figures, outcome, bytes, rounds, clients and options."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fl.common.config import Config

from ..figures.dashboard import key_figures
from ..figures.run_data import RunData
from .page import Page, Picture, SortableTable

NAME = "report.html"
_ADDED_UP = ("samples", "train_s", "uplink_bytes", "downlink_bytes")


def write_run_page(folder: Path, run: RunData, pictures: Sequence[Picture]) -> Path:
    """Write report.html of `run`, whose folder and figures these are, and return its path.

    summary.json and clients.csv are used where they exist, so a run cut short has a page too.
    """
    tables = [
        _bytes(run),
        *_phases(run),
        _rounds(run),
        *_clients(folder / "clients.csv"),
        *_summary(folder / "summary.json"),
    ]
    if run.config:
        tables.append(_options(run.config))
    page = Page(run.name, run.subtitle, key_figures(run), (), pictures, tables)
    return page.write(folder / NAME)


def _bytes(run: RunData) -> SortableTable:
    ways = ("uplink", "downlink")
    sent = [int(np.nansum(run[f"{way}_bytes"])) for way in ways]
    dense = [int(np.nansum(run[f"{way}_dense_bytes"])) for way in ways]
    ratios = [many / few if few else None for many, few in zip(dense, sent, strict=True)]
    columns = {"direction": ways, "sent, bytes": sent, "dense fp32, bytes": dense, "times fewer": ratios}
    return SortableTable.of("Bytes", columns, "All clients and rounds together, counted where they were made.")


def _phases(run: RunData) -> list[SortableTable]:
    """Nothing without `--profile`."""
    if run.phases is None:
        return []
    server, mean = run.phases.server, run.phases.mean
    total = run.phases.total or 1.0
    columns: dict[str, list[Any]] = {
        "phase": list(server),
        "rank 0, s": list(server.values()),
        "share, %": [100 * seconds / total for seconds in server.values()],
        "mean of the ranks, s": list(mean.values()),
    }
    note = f"Seconds of the host ({run.phases.words}); phases.csv has them by round and rank."
    return [SortableTable.of("Phases", columns, note)]


def _rounds(run: RunData) -> SortableTable:
    """Columns that are empty throughout are left out."""
    filled = {name: values.tolist() for name, values in run.metrics.items() if np.isfinite(values).any()}
    return SortableTable.of("Rounds", filled, "The columns of metrics.csv.")


def _clients(path: Path) -> list[SortableTable]:
    """One row a client, its rounds added up; nothing without clients.csv."""
    if not path.is_file():
        return []
    totals: dict[int, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if any(cell is None for cell in row.values()):
                continue  # a line cut short by a kill
            own = totals.setdefault(int(row["client"]), dict.fromkeys(("rounds", *_ADDED_UP), 0.0))
            own["rounds"] += 1
            for name in _ADDED_UP:
                own[name] += float(row[name] or 0)
    columns: dict[str, list[Any]] = {"client": sorted(totals)}
    for name in ("rounds", *_ADDED_UP):
        columns[name] = [totals[client][name] for client in columns["client"]]
    return [SortableTable.of("Clients", columns, "The columns of clients.csv, added up over the rounds.")]


def _summary(path: Path) -> list[SortableTable]:
    if not path.is_file():
        return []
    values = json.loads(path.read_text(encoding="utf-8"))
    return [SortableTable.of("Summary", {"name": list(values), "value": list(values.values())}, "summary.json.")]


def _options(config: dict[str, Any]) -> SortableTable:
    usual = {field.name: field.default for field in dataclasses.fields(Config)}
    columns = {
        "option": list(config),
        "value": [_word(value) for value in config.values()],
        "default": [_word(usual.get(name, "")) for name in config],
        "changed": ["changed" if config[name] != usual.get(name) else "" for name in config],
    }
    return SortableTable.of("Options", columns, "Every option of the run, defaults filled in.")


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
