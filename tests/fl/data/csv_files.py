"""Small tables of one's own, written and read."""

from pathlib import Path

from fl.common.config import DataOptions
from fl.data import Dataset, load_dataset


def read(path: Path, words: str, partition: str = "iid") -> Dataset:
    """What a run would get."""
    return load_dataset(DataOptions(dataset=f"csv:{path},{words}", partition=partition), seed=0)


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path
