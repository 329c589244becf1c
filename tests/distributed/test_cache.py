"""Decoded data, shared by the ranks of a machine. Oracle: the system's own list of what each process has mapped."""

from pathlib import Path

import numpy as np

from fl.data import cache
from tests.fl.data.csv_files import write
from tests.support import make_worker, on_ranks


def _look(rank: int, world_size: int, folder: Path) -> None:
    cache.LEAST_BYTES = 0
    worker = make_worker(dataset=f"csv:{folder / 't.csv'},target=y", model="mlp", cache_dir=str(folder / "kept"))
    at = worker.train.x.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= at < last:
            (folder / f"rank{rank}").write_text(" ".join(line.split()[3:]))


def test_ranks_train_on_the_same_pages(tmp_path: Path) -> None:
    """The samples of both ranks lie in one file, by device and inode: the only entry, which one of them has written."""
    rows = np.random.default_rng(0).normal(size=(80, 3)).round(3)
    write(tmp_path / "t.csv", "a,b,y", [f"{a},{b},{int(y > 0)}" for a, b, y in rows])
    on_ranks(2, _look, tmp_path)
    entries = list((tmp_path / "kept").glob("*/*.safetensors"))
    found = [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]
    assert found[0] == found[1]
    assert found[0].endswith(f" {entries[0].stat().st_ino} {entries[0]}")
    assert len(entries) == 1
