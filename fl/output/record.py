"""The run folder: what happened, as csv, JSON and a log, on disk as soon as it is known."""

import contextlib
import csv
import logging
import os
from pathlib import Path
from typing import Any

from fl.common.errors import DataError
from fl.training.evaluate import COLUMNS as SCORES
from fl.training.evaluate import client_columns
from fl.training.tasks import Task

from .layers import LAYERS

_BEFORE = ("round", "time_s", "train_s", "exchange_s", "eval_s", "train_loss")
_AFTER = (
    "clients",
    "samples",
    "uplink_bytes",
    "downlink_bytes",
    "uplink_dense_bytes",
    "downlink_dense_bytes",
    "uplink_ratio",
    "kept_fraction",
    "update_norm",
    "sparsity",
    "mask_bytes",
    "virtual_time_s",
    "train_flops",
    "client_memory_bytes",
)
COMMON = (*_BEFORE, "val_loss", *_AFTER)
"""The columns of metrics.csv that every run has, whatever its task."""
TIMES = ("start_s", "ready_s", "sent_s", "arrive_s")  # virtual seconds
CLIENTS = (
    *("round", "client", "rank", "samples", "train_s", "train_flops", "uplink_bytes", "downlink_bytes"),
    *(*TIMES, "staleness", "capability", "uplink_share"),
)


def metrics_columns(task: Task, *, clients: bool = False) -> tuple[str, ...]:
    """The columns of metrics.csv; `clients`: with those of `--client-eval`."""
    judged = [f"{split}_{name}" for split in ("val", "test") for name in ("loss", *task.metrics)]
    return (*_BEFORE, *judged, *(client_columns(task.score) if clients else ()), *_AFTER)


Rows = tuple[dict[str, Any], list[dict[str, Any]]]
"""The columns of a round in metrics.csv, and its rows in clients.csv."""
_ERRORS = "backslashreplace"  # names of layers and files may hold what is no UTF-8


class Table:
    """A csv file that only grows; every row is on disk when `append` returns."""

    def __init__(self, path: Path, columns: tuple[str, ...], keep_bytes: int | None) -> None:
        """Start afresh, or keep the first `keep_bytes` bytes of the file that is there; DataError if it has fewer."""
        self.path = path
        self.columns = columns
        if keep_bytes is None:
            self._file = open(path, "w", newline="", encoding="utf-8", errors=_ERRORS)  # noqa: SIM115 - it stays open for the whole run
            csv.writer(self._file).writerow(columns)
        else:
            if not path.is_file() or path.stat().st_size < keep_bytes:
                raise DataError(
                    f"{path} lacks rows of the rounds before the checkpoint: bring it back, or start a new run"
                )
            with open(path, "r+b") as file:
                file.truncate(keep_bytes)
            self._file = open(path, "a", newline="", encoding="utf-8", errors=_ERRORS)  # noqa: SIM115
        self._writer = csv.DictWriter(self._file, columns)
        self.flush()

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; None becomes an empty cell, floats are written so that they read back exactly."""
        self._writer.writerow(row)

    def flush(self) -> None:
        """Force what was appended to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def size(self) -> int:
        """Length of the file in bytes."""
        self.flush()
        return self.path.stat().st_size

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        self._file.close()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """On a full disk the line is lost, and no traceback of it is printed."""

    def close(self) -> None:
        """As FileHandler's; what is still to be written may be lost too."""
        with contextlib.suppress(OSError):
            super().close()


class Record:
    """metrics.csv, clients.csv, layers.csv, client_eval.csv and run.log of a run; made on rank 0 only."""

    def __init__(
        self,
        folder: Path,
        task: Task,
        keep: dict[str, int] | None = None,
        *,
        layers: bool = False,
        client_eval: bool = False,
    ) -> None:
        """Start a record in `folder`, or go on with the one there, whose files are cut to the lengths in `keep`.

        There is a layers.csv only with `layers`, and a client_eval.csv only with `client_eval`.
        """
        self.folder = folder
        self._before_last: dict[str, int] = {}  # lengths of the files that `last_round` ends
        self.last_round: dict[str, Any] = {}
        keep = keep or {}
        self.score = task.score
        columns = metrics_columns(task, clients=client_eval)
        self.metrics = Table(folder / "metrics.csv", columns, keep.get("metrics"))
        self.clients = Table(folder / "clients.csv", CLIENTS, keep.get("clients"))
        self.layers = Table(folder / "layers.csv", LAYERS, keep.get("layers")) if layers else None
        scores = Table(folder / "client_eval.csv", SCORES, keep.get("client_eval")) if client_eval else None
        self.client_eval = scores
        self.log = logging.getLogger("leanfed")
        self.log.setLevel(logging.INFO)
        self.log.propagate = False
        self._handler = _LogFile(folder / "run.log", "a" if keep else "w", encoding="utf-8", errors=_ERRORS)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.log.addHandler(self._handler)

    def end_run(self, ended: Rows, going_on: Rows) -> None:
        """The round that is added next ends the run: its columns of metrics.csv and rows of clients.csv as they then are,
        and as they are where more rounds follow after all.

        A checkpoint is taken before these rows, and has them both in `last_round`.
        """
        self._before_last = {name: self._tables()[name].size() for name in ("metrics", "clients")}
        self.last_round = {"ended": ended, "going_on": going_on}

    def restore_last_round(self, rows: Rows) -> None:
        """Add the rows of the round that the last checkpoint was taken before."""
        metrics, clients = rows
        for row in clients:
            self.clients.append(row)
        self.metrics.append(metrics)
        self.clients.flush()
        self.metrics.flush()

    def add_round(
        self,
        metrics: dict[str, Any],
        clients: list[dict[str, Any]],
        layers: list[dict[str, Any]] | None = None,
        scores: list[dict[str, Any]] | None = None,
    ) -> None:
        """Add a finished round to the tables and a line to the log; `scores`: rows of client_eval.csv."""
        for table, rows in ((self.clients, clients), (self.layers, layers), (self.client_eval, scores)):
            if table is not None:
                for row in rows or ():
                    table.append(row)
                table.flush()
        self.metrics.append(metrics)
        self.metrics.flush()
        told = {name: metrics[name] for name in ("train_loss", *self.score.columns)}
        words = ", ".join(f"{name} {value:.4f}" for name, value in told.items() if value is not None)
        self.log.info(
            "round %d: %s, up %d bytes, down %d bytes, %.1f s",
            metrics["round"],
            words,
            metrics["uplink_bytes"],
            metrics["downlink_bytes"],
            metrics["time_s"],
        )

    def sizes(self) -> dict[str, int]:
        """Lengths of the csv files in bytes, for a checkpoint."""
        return {**{name: table.size() for name, table in self._tables().items()}, **self._before_last}

    def _tables(self) -> dict[str, Table]:
        tables = {
            "metrics": self.metrics,
            "clients": self.clients,
            "layers": self.layers,
            "client_eval": self.client_eval,
        }
        return {name: table for name, table in tables.items() if table is not None}

    def close(self) -> None:
        """Close all files."""
        for table in self._tables().values():
            table.close()
        self.log.removeHandler(self._handler)
        self._handler.close()


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    """The rows of metrics.csv as numbers; empty cells are None."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return [{name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(file)]
