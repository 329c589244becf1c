"""The run folder: what happened, as csv, JSON and a log, on disk as soon as it is known."""

import csv
import logging
import os
from pathlib import Path
from typing import Any

from .checkpoint import write_json
from .layer_rows import LAYERS

METRICS = (
    "round",
    "time_s",
    "train_s",
    "exchange_s",
    "eval_s",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "test_accuracy",
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
TIMES = ("start_s", "ready_s", "sent_s", "arrive_s")  # virtual seconds
CLIENTS = (
    *("round", "client", "rank", "samples", "train_s", "uplink_bytes", "downlink_bytes"),
    *(*TIMES, "staleness", "capability", "uplink_share"),
)


class Table:
    """A csv file that only grows; every row is on disk when `append` returns."""

    def __init__(self, path: Path, columns: tuple[str, ...], keep_bytes: int | None) -> None:
        """Start afresh, or keep the first `keep_bytes` bytes of the file that is there."""
        self.path = path
        self.columns = columns
        if keep_bytes is None:
            self._file = open(path, "w", newline="")  # noqa: SIM115 - it stays open for the whole run
            csv.writer(self._file).writerow(columns)
        else:
            with open(path, "r+b") as file:
                file.truncate(keep_bytes)
            self._file = open(path, "a", newline="")  # noqa: SIM115
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


class Record:
    """metrics.csv, clients.csv, layers.csv and run.log of a run; made on rank 0 only."""

    def __init__(self, folder: Path, keep: dict[str, int] | None = None, *, layers: bool = False) -> None:
        """Start a record in `folder`, or go on with the one there, whose files are cut to the lengths in `keep`.

        There is a layers.csv only with `layers`.
        """
        self.folder = folder
        keep = keep or {}
        self.metrics = Table(folder / "metrics.csv", METRICS, keep.get("metrics"))
        self.clients = Table(folder / "clients.csv", CLIENTS, keep.get("clients"))
        self.layers = Table(folder / "layers.csv", LAYERS, keep.get("layers")) if layers else None
        self.log = logging.getLogger("leanfed")
        self.log.setLevel(logging.INFO)
        self.log.propagate = False
        self._handler = logging.FileHandler(folder / "run.log", mode="a" if keep else "w")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.log.addHandler(self._handler)

    def add_round(
        self, metrics: dict[str, Any], clients: list[dict[str, Any]], layers: list[dict[str, Any]] | None = None
    ) -> None:
        """Add a finished round to the tables and a line to the log."""
        for table, rows in ((self.clients, clients), (self.layers, layers)):
            if table is not None:
                for row in rows or ():
                    table.append(row)
                table.flush()
        self.metrics.append(metrics)
        self.metrics.flush()
        told = {name: metrics[name] for name in ("train_loss", "val_accuracy", "test_accuracy")}
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
        return {name: table.size() for name, table in self._tables().items()}

    def _tables(self) -> dict[str, Table]:
        tables = {"metrics": self.metrics, "clients": self.clients}
        return tables if self.layers is None else {**tables, "layers": self.layers}

    def close(self) -> None:
        """Close all files."""
        for table in self._tables().values():
            table.close()
        self.log.removeHandler(self._handler)
        self._handler.close()


def read_metrics(folder: Path) -> list[dict[str, float | None]]:
    """The rows of metrics.csv as numbers; empty cells are None."""
    with open(folder / "metrics.csv", newline="") as file:
        return [{name: float(cell) if cell else None for name, cell in row.items()} for row in csv.DictReader(file)]


def write_summary(folder: Path, *, model_sha256: str, parameters: int, extra: dict[str, Any]) -> dict[str, Any]:
    """Write summary.json from metrics.csv and return it.

    The best round is chosen on validation accuracy alone; the test accuracy of that round is reported beside the final
    one. Ratios are dense bytes over real bytes.
    """
    rows = read_metrics(folder)
    tested = [row for row in rows if row["test_accuracy"] is not None]
    validated = [row for row in rows if row["val_accuracy"] is not None]
    best = max(validated, key=lambda row: (row["val_accuracy"] or 0.0, -(row["round"] or 0)), default=None)
    totals = {
        name: int(sum(row[name] or 0 for row in rows))
        for name in ("uplink_bytes", "downlink_bytes", "uplink_dense_bytes", "downlink_dense_bytes")
    }
    summary = {
        "rounds": len(rows),
        "final_test_accuracy": tested[-1]["test_accuracy"] if tested else None,
        "final_val_accuracy": validated[-1]["val_accuracy"] if validated else None,
        "best_val_round": int(best["round"] or 0) if best else None,
        "best_val_accuracy": best["val_accuracy"] if best else None,
        "best_val_test_accuracy": best["test_accuracy"] if best else None,
        **{f"total_{name}": value for name, value in totals.items()},
        "uplink_ratio": totals["uplink_dense_bytes"] / max(1, totals["uplink_bytes"]),
        "downlink_ratio": totals["downlink_dense_bytes"] / max(1, totals["downlink_bytes"]),
        "seconds": sum(row["time_s"] or 0 for row in rows),
        "parameters": parameters,
        "model_sha256": model_sha256,
        **extra,
    }
    write_json(folder / "summary.json", summary)
    return summary
