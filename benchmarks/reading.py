"""`python benchmarks/reading.py`: seconds until a data set is read into a run's tensors, the first time and the second.

A table of 200,000 rows, and 5,000 JPEGs of 64x64. The floors: what Python's own csv module and `float` need for the same
cells, and Pillow, on one thread, for the same pictures.
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
from PIL import Image

from fl.common.config import DataOptions
from fl.data import load_dataset

ROWS, COLUMNS = 200_000, 20
PICTURES, SIDE = 5_000, 64


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few, many = (write_table(folder / f"{rows}.csv", rows) for rows in (1_000, ROWS))
        some, all_ = (write_pictures(folder / f"pictures{count}", count) for count in (100, PICTURES))
        compare(f"{ROWS:,} rows x {COLUMNS + 1} columns", few, many, lambda: read_with_csv(folder / f"{ROWS}.csv"))
        compare(f"{PICTURES:,} pictures", some, all_, lambda: read_with_pillow(folder / f"pictures{PICTURES}"))


def compare(title: str, small: str, large: str, floor: Callable[[], Any]) -> None:
    """Show how long the data set `large` takes; `small` is read before, so that imports are not counted."""
    read(small)
    least = seconds(floor)
    rows = [["the floor", f"{least:.2f}", "1.00"]]
    for turn in ("first", "second"):
        taken = seconds(lambda: read(large))
        rows.append([f"a run, the {turn} time", f"{taken:.2f}", f"{taken / least:.2f}"])
    show(f"{title}; {machine()}", ["what", "seconds", "times the floor"], rows)


def write_pictures(folder: Path, count: int) -> str:
    """A specification of so many JPEGs of noise, in two classes."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(path)
    return f"imagefolder:{folder}"


def write_table(path: Path, rows: int) -> str:
    """A specification of a table of normal numbers with four decimals, and a label of two classes."""
    x = np.random.default_rng(0).normal(size=(rows, COLUMNS)).round(4)
    label = (x[:, :3].sum(1) > 0).astype(int)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{number}" for number in range(COLUMNS)), "label"])
        writer.writerows([*row, one] for row, one in zip(x.tolist(), label.tolist(), strict=True))
    return f"csv:{path},target=label"


def read(dataset: str) -> Any:
    """The data set as a run reads it."""
    return load_dataset(DataOptions(dataset=dataset), seed=0)


def read_with_csv(path: Path) -> Any:
    """The cells as float64 [rows] a column, with nothing looked at."""
    gc.disable()  # it would walk the rows again and again
    with open(path, newline="") as file:
        _, *rows = csv.reader(file)
    columns = [np.fromiter(map(float, cells), np.float64, len(cells)) for cells in zip(*rows, strict=True)]
    gc.enable()
    return columns


def read_with_pillow(folder: Path) -> np.ndarray:
    """The pictures, uint8 [N, H, W, C], in any order."""
    return np.stack([np.asarray(Image.open(path)) for path in folder.glob("*/*")])


def seconds(work: Callable[[], Any]) -> float:
    """How long that takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
