"""The run folder: what happened, as csv, JSON and a log, on disk as soon as it is known."""

import contextlib
import csv
import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any

from compression.phases import PHASES
from fl.common.errors import DataError
from fl.common.files import Beginning, naming, sha256
from fl.training.evaluate import COLUMNS as SCORES
from fl.training.evaluate import client_columns
from fl.training.tasks import Task

from .layers import LAYERS

_BEFORE = ("round", "time_s", "train_s", "exchange_s", "eval_s", "checkpoint_s", "train_loss")
_AFTER = (
    "clients",
    "rejected",
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
PRIVACY = ("epsilon", "delta", "clip_norm")
ENGINE = ("engine_bytes",)
TIMES = ("start_s", "ready_s", "sent_s", "arrive_s")  # virtual seconds
CLIENTS = (
    *("round", "client", "rank", "samples", "train_s", "train_flops", "uplink_bytes", "downlink_bytes"),
    *(*TIMES, "staleness", "capability", "uplink_share", "rejected"),
)
OTHER = "other"
"""What is in no phase."""
PHASE_TIMES = ("round", "rank", "time_s", *(f"{name}_s" for name in (*PHASES, OTHER)))


def metrics_columns(
    task: Task, *, clients: bool = False, private: bool = False, engine: bool = False
) -> tuple[str, ...]:
    """The columns of metrics.csv; `clients`: with those of `--client-eval`; `private`: with those of `--dp`; `engine`: with
    that of an engine which carries the messages of sites."""
    judged = [f"{split}_{name}" for split in ("val", "test") for name in ("loss", *task.metrics)]
    further = (*(PRIVACY if private else ()), *(ENGINE if engine else ()))
    return (*_BEFORE, *judged, *(client_columns(task.score) if clients else ()), *_AFTER, *further)


Rows = tuple[dict[str, Any], list[dict[str, Any]]]
"""The columns of a round in metrics.csv, and its rows in clients.csv."""
_ERRORS = "backslashreplace"  # names of layers and files may hold what is no UTF-8


class Table:
    """A csv file that only grows; what was appended is on disk when `flush` returns."""

    def __init__(self, path: Path, columns: tuple[str, ...], keep: Beginning | None) -> None:
        """Start afresh, or go on after the beginning `keep` of the file that is there; DataError as `read_beginning`."""
        self.path = path
        kept = b"" if keep is None else read_beginning(path, keep)
        if keep is not None:
            os.truncate(path, keep.bytes)
        self._file = open(path, "wb" if keep is None else "ab")  # noqa: SIM115 - it stays open for the whole run
        self._rows = io.StringIO(newline="")
        self._writer = csv.DictWriter(self._rows, columns)
        self._bytes, self._sha256 = len(kept), hashlib.sha256(kept)
        if keep is None:
            self._writer.writeheader()
        self.flush()

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; None becomes an empty cell, floats are written so that they read back exactly."""
        self._writer.writerow(row)

    def flush(self) -> None:
        """Force what was appended to disk."""
        data = self._rows.getvalue().encode("utf-8", _ERRORS)
        self._rows.seek(0)
        self._rows.truncate()
        self._bytes += len(data)
        self._sha256.update(data)
        with naming(self.path):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())

    def so_far(self) -> Beginning:
        """All that the file holds."""
        self.flush()
        return Beginning(self._bytes, self._sha256.hexdigest())

    def close(self) -> None:
        """Flush and close the file."""
        try:
            self.flush()
        finally:
            with contextlib.suppress(OSError):  # what `flush` has told already
                self._file.close()


def read_beginning(path: Path, beginning: Beginning) -> bytes:
    """The beginning of a file of the record; DataError if the file no longer begins like this."""
    data = path.read_bytes()[: beginning.bytes] if path.is_file() else b""
    if sha256(data) != beginning.sha256:
        what = (
            "is missing"
            if not path.exists()
            else "has changed"
            if len(data) == beginning.bytes
            else "lacks what it held"
        )
        raise DataError(
            f"{path} {what} since the last checkpoint (a spreadsheet program changes a table that it saves): bring the file "
            "back as it was, or start a new run"
        )
    return data


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """On a full disk the line is lost, and no traceback of it is printed."""

    def close(self) -> None:
        """As FileHandler's; what is still to be written may be lost too."""
        with contextlib.suppress(OSError):
            super().close()


class Record:
    """metrics.csv, clients.csv, layers.csv, client_eval.csv, phases.csv and run.log of a run; made on rank 0 only."""

    def __init__(
        self,
        folder: Path,
        task: Task,
        keep: dict[str, Beginning] | None = None,
        *,
        layers: bool = False,
        client_eval: bool = False,
        private: bool = False,
        profile: bool = False,
        engine: bool = False,
    ) -> None:
        """Start a record in `folder`, or go on with the one there, whose files are cut to the beginnings in `keep`;
        DataError, and nothing has changed, if a file there does not begin like this.

        There is a layers.csv only with `layers`, and a client_eval.csv only with `client_eval`; `private` and
        `engine`: see `metrics_columns`. With `profile` there is a phases.csv, which may begin in any round.
        """
        self.folder = folder
        self._before_last: dict[str, Beginning] = {}  # the files that `last_round` ends
        self.last_round: dict[str, Any] = {}
        self.score = task.score
        for name, beginning in (keep or {}).items():
            read_beginning(folder / name, beginning)  # all of them, before the first is cut

        def table(name: str, columns: tuple[str, ...]) -> Table:
            if keep is not None and name not in keep:
                raise DataError(f"the checkpoint does not know of {folder / name}: start a new run")
            return Table(folder / name, columns, None if keep is None else keep[name])

        self.metrics = table("metrics.csv", metrics_columns(task, clients=client_eval, private=private, engine=engine))
        self.clients = table("clients.csv", CLIENTS)
        self.layers = table("layers.csv", LAYERS) if layers else None
        self.client_eval = table("client_eval.csv", SCORES) if client_eval else None
        phases_kept = (keep or {}).get("phases.csv")
        self.phases = Table(folder / "phases.csv", PHASE_TIMES, phases_kept) if profile else None
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
        self._before_last = {table.path.name: table.so_far() for table in (self.metrics, self.clients)}
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
        phases: list[dict[str, float]] | None = None,
    ) -> None:
        """Add a finished round to the tables and a line to the log; `scores`: rows of client_eval.csv, `phases`: of
        phases.csv."""
        for table, rows in (
            (self.clients, clients),
            (self.layers, layers),
            (self.client_eval, scores),
            (self.phases, phases),
        ):
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

    def so_far(self) -> dict[str, Beginning]:
        """What of the csv files is a checkpoint's."""
        return {**{table.path.name: table.so_far() for table in self._tables()}, **self._before_last}

    def _tables(self) -> list[Table]:
        tables = (self.metrics, self.clients, self.layers, self.client_eval, self.phases)
        return [table for table in tables if table is not None]

    def close(self) -> None:
        """Close all files."""
        for table in self._tables():
            table.close()
        self.log.removeHandler(self._handler)
        self._handler.close()


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    """The rows of metrics.csv as numbers; empty cells are None."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        return [{name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(file)]
