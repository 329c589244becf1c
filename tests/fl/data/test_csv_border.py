"""Where the splits of the user's own table begin and end in time. Oracle: a table small enough to follow by hand."""

from pathlib import Path

from fl.common.config import DataOptions
from fl.data import load_dataset


def test_moments_without_a_whole_row_do_not_count(tmp_path: Path) -> None:
    """Twenty hours, of which 12 to 15 have no value: of the other sixteen half train, a quarter validates and a quarter
    tests. By all twenty, ten would train and only two validate."""
    rows = [f"{n},{'NA' if 12 <= n < 16 else n},{n + 0.5}" for n in range(20)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["at,v,y", *rows]) + "\n")
    data = load_dataset(DataOptions(dataset=f"csv:{path},target=y,time=at,val=0.25,test=0.25"), seed=0)
    assert data.validation is not None
    hours = [(split.y - 0.5).int().tolist() for split in (data.train, data.validation, data.test)]
    assert hours == [list(range(8)), list(range(8, 12)), list(range(16, 20))]
