"""`python benchmarks/reading.py`: seconds until a data set is read into a run's tensors, a table of 200,000 rows.

The floor is what Python's own csv module and `float` need for the same cells.
"""

import csv
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, show

from fl.common.config import DataOptions
from fl.data import load_dataset

ROWS, COLUMNS = 200_000, 20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        few, many = (write_table(Path(folder) / f"{rows}.csv", rows) for rows in (1_000, ROWS))
        read(few)  # imports are not counted
        floor = seconds(lambda: read_with_csv(many))
        rows = [["csv.reader and float()", f"{floor:.2f}", "1.00"]]
        for turn in ("first", "second"):
            taken = seconds(lambda: read(many))
            rows.append([f"a run, the {turn} time", f"{taken:.2f}", f"{taken / floor:.2f}"])
    show(f"{ROWS:,} rows x {COLUMNS + 1} columns; {machine()}", ["what", "seconds", "times the floor"], rows)


def write_table(path: Path, rows: int) -> Path:
    """A table of normal numbers with four decimals, and a label of two classes."""
    x = np.random.default_rng(0).normal(size=(rows, COLUMNS)).round(4)
    label = (x[:, :3].sum(1) > 0).astype(int)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{number}" for number in range(COLUMNS)), "label"])
        writer.writerows([*row, one] for row, one in zip(x.tolist(), label.tolist(), strict=True))
    return path


def read(path: Path) -> Any:
    """The data set as a run reads it."""
    return load_dataset(DataOptions(dataset=f"csv:{path},target=label"), seed=0)


def read_with_csv(path: Path) -> Any:
    """The cells as float64 [rows] a column, with nothing looked at."""
    gc.disable()  # it would walk the rows again and again
    with open(path, newline="") as file:
        _, *rows = csv.reader(file)
    columns = [np.fromiter(map(float, cells), np.float64, len(cells)) for cells in zip(*rows, strict=True)]
    gc.enable()
    return columns


def seconds(work: Callable[[], Any]) -> float:
    """How long that takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
