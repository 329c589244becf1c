"""What the figures need to know of a run, read back from its folder."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl.common.errors import DataError
from fl.common.files import read_json
from fl.training.tasks import Score, score_of

from ..layers import LAYERS
from ..record import COMMON, PHASE_TIMES, TIMES

Column = NDArray[np.float64]

_READ = tuple(column for column in COMMON if column != "checkpoint_s")  # runs of earlier builds have none


@dataclass(frozen=True)
class LayerData:
    """layers.csv: names of the layers, and float64[rounds, layers] by column."""

    names: list[str]
    columns: dict[str, Column]

    def __getitem__(self, column: str) -> Column:
        return self.columns[column]


@dataclass(frozen=True)
class TimeData:
    """Virtual seconds in clients.csv, float64[updates] each; `client`, int64: whose."""

    client: NDArray[np.int64]
    start: Column
    ready: Column
    sent: Column
    arrive: Column


@dataclass(frozen=True)
class PhaseData:
    """phases.csv, its rounds added up: seconds by phase, on rank 0 and as a mean over the ranks, and of all phases."""

    first: int
    last: int
    server: dict[str, float]
    mean: dict[str, float]
    total: float

    @property
    def words(self) -> str:
        """Which rounds these are."""
        return f"rounds {self.first} to {self.last}, {self.total:.1f} s"


@dataclass(frozen=True)
class RunData:
    """One run: `metrics` are float64[rounds] by column (NaN: empty cell), `labels` is int[clients, classes],
    with a single column where targets are numbers."""

    name: str
    config: dict[str, Any]
    metrics: dict[str, Column]
    labels: NDArray[np.int64] | None
    clients: int
    ranks: int
    layers: LayerData | None = None
    times: TimeData | None = None
    phases: PhaseData | None = None

    def __getitem__(self, column: str) -> Column:
        return self.metrics[column]

    @property
    def score(self) -> Score:
        """What rounds are compared by."""
        return score_of(self.metrics)

    @property
    def rounds(self) -> int:
        """How many rounds metrics.csv holds."""
        return len(self.metrics["round"])

    def cumulative_mb(self, column: str) -> Column:
        """Running total of a byte column in MB (10^6 bytes), float64[rounds]."""
        return np.cumsum(np.nan_to_num(self.metrics[column])) / 1e6

    def reduction(self, direction: str) -> float:
        """Dense bytes over bytes sent in the whole run, uplink or downlink; NaN if nothing was sent."""
        sent = np.nansum(self.metrics[f"{direction}_bytes"])
        dense = np.nansum(self.metrics[f"{direction}_dense_bytes"])
        return float(dense / sent) if sent > 0 else float("nan")

    @property
    def subtitle(self) -> str:
        """The options that tell runs apart, in one line; empty without config.json."""
        words = [str(self.config[key]) for key in ("model", "dataset", "partition") if self.config.get(key)]
        if self.clients:
            words.append(f"{self.clients} client{'s' * (self.clients != 1)}")
        words += [f"{key} {self.config[key]}" for key in ("uplink", "downlink", "server") if self.config.get(key)]
        return "  ·  ".join(words)


def read_run(folder: Path) -> RunData:
    """Read metrics.csv and, where they exist, config.json, clients.csv, layers.csv and partition.json.

    A last line cut short by a kill is left out. DataError if metrics.csv is missing or lacks a column.
    """
    path = folder / "metrics.csv"
    if not path.is_file():
        raise DataError(f"{path} does not exist; a report needs the metrics of at least one round")
    rows, header = _rows(path)
    _refuse_without((*_READ, *score_of(header).columns), path, header)
    metrics = {column: np.array([_number(row[column], path) for row in rows]) for column in header}

    clients, header = _rows(folder / "clients.csv")
    _refuse_without(("client", "rank", *(TIMES if "arrive_s" in header else ())), folder / "clients.csv", header)
    config = _json(folder / "config.json")
    flat = {k: v for group in config.values() if isinstance(group, dict) for k, v in group.items()} | config
    counts = _json(folder / "partition.json").get("labels")
    try:
        labels = np.array(counts, dtype=np.int64).reshape(len(counts), -1) if counts else None
    except (TypeError, ValueError, OverflowError):
        text = "must hold one list of whole numbers per client, all of one length, under 'labels'"
        raise DataError(f"{folder / 'partition.json'} {text}") from None
    known = len(labels) if labels is not None else len({row["client"] for row in clients})
    return RunData(
        name=folder.resolve().name,
        config=flat,
        metrics=metrics,
        labels=labels,
        clients=known,
        ranks=len({row["rank"] for row in clients}),
        layers=_read_layers(folder / "layers.csv"),
        times=_read_times(clients, folder / "clients.csv"),
        phases=read_phases(folder),
    )


def read_phases(folder: Path) -> PhaseData | None:
    """None without phases.csv, or without a row in it; DataError if it is malformed."""
    path = folder / "phases.csv"
    rows, header = _rows(path)
    _refuse_without(PHASE_TIMES, path, header)
    if not rows:
        return None
    numbers = {column: np.array([_number(row[column], path) for row in rows]) for column in PHASE_TIMES}
    rounds, is_server = numbers["round"], numbers["rank"] == 0
    ranks = np.array([np.count_nonzero(rounds == each) for each in rounds])  # of each row's round
    names = [column.removesuffix("_s") for column in PHASE_TIMES[3:]]
    return PhaseData(
        first=int(rounds.min()),
        last=int(rounds.max()),
        server={name: float(numbers[f"{name}_s"][is_server].sum()) for name in names},
        mean={name: float((numbers[f"{name}_s"] / ranks).sum()) for name in names},
        total=float(numbers["time_s"][is_server].sum()),
    )


def _read_times(clients: list[dict[str, str]], path: Path) -> TimeData | None:
    """None where the run had no virtual time."""
    timed = [row for row in clients if row.get("arrive_s")]
    if not timed:
        return None
    columns = {name: np.array([_number(row[name], path) for row in timed]) for name in ("client", *TIMES)}
    return TimeData(
        columns["client"].astype(np.int64),
        columns["start_s"],
        columns["ready_s"],
        columns["sent_s"],
        columns["arrive_s"],
    )


def _read_layers(path: Path) -> LayerData | None:
    """The rounds of which every layer is there; None where there is no file or no whole round."""
    rows, header = _rows(path)
    _refuse_without(LAYERS, path, header)
    names = [row["layer"] for row in rows if row["round"] == rows[0]["round"]]
    rounds = len(rows) // max(1, len(names))
    if not rounds:
        return None
    whole = rows[: rounds * len(names)]
    columns = {
        column: np.array([_number(row[column], path) for row in whole]).reshape(rounds, len(names))
        for column in LAYERS
        if column != "layer"
    }
    return LayerData(names, columns)


def _refuse_without(columns: Iterable[str], path: Path, header: list[str]) -> None:
    """DataError for a file that lacks one of these columns; no header: there is no file."""
    for column in columns:
        if header and column not in header:
            raise DataError(f"{path} has no column '{column}'; was it written by another version?")


def _rows(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The complete rows of a csv file and its header; nothing where there is no file."""
    if not path.is_file():
        return [], []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or [])
            rows = [row for row in reader if None not in row and None not in row.values()]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    if not header:
        raise DataError(f"{path} is empty, without a header")
    return rows, header


def _number(text: str, path: Path) -> float:
    if not text.strip():
        return float("nan")
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path} holds '{text}' where a number belongs") from None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error})") from None
    return value if isinstance(value, dict) else {}
