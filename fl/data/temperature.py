"""Hourly weather at stations in Beijing, 2013-2017: the temperature of the next hour from the last 24 hours.

Zhang, Guo, Dong, He, Xu and Chen 2017, "Cautionary tales on air-quality improvement in Beijing" (UCI "Beijing Multi-Site
Air-Quality Data"): a file `PRSA_Data_<station>_*.csv` a station, a row an hour, `NA` where a value is missing.

A sample is 24 rows of temperature, pressure, dew point and wind speed in a row, and the temperature one hour after them. All
stations share one calendar: the first half of it trains, the third quarter validates, the last quarter tests (four years:
two, one and one, so each split sees every season), a day between two splits unused. All rows of a sample, the hour to
predict included, lie in one split.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fl.common.errors import DataError

from .cache import cached
from .dataset import Dataset, Split
from .normalise import Scaler
from .tables import find_tables, read_table, refuse_huge, to_numbers
from .windows import cut_starts, parts_in_time, take_windows

FEATURES = ("TEMP", "PRES", "DEWP", "WSPM")
"""Degrees Celsius, hPa, degrees Celsius, m/s; the first is also the target."""

LENGTH, HORIZON = 24, 1
PARTS = {"train": 2, "validation": 1, "test": 1}
FOLDERS = ("temperature", "beijing_air")
_TIME = ("year", "month", "day", "hour")


@dataclass(frozen=True)
class Station:
    """The rows of one station, float64 [N, 4], NaN where a value is missing, and their `hours` since 1970 (-1: unknown).

    `malformed` rows had too many or too few cells.
    """

    path: Path
    rows: np.ndarray
    hours: np.ndarray
    malformed: int

    @property
    def usable(self) -> np.ndarray:
        """Rows without a missing value and at a known time, bool [N]."""
        return np.isfinite(self.rows).all(1) & (self.hours >= 0)


def load(data_dir: Path, download: bool) -> Dataset:
    """The data set from DIR/temperature, DIR/beijing_air or DIR; there is nothing to download.

    x float32 [N, 24, 4], scaled by each column's mean and standard deviation over the usable training rows of all stations;
    y float32 [N] in degrees Celsius; the groups are the stations. `notes` has the error of persistence, the guess that the
    next hour is like the last one. DataError for missing or unreadable files, and where a split has no window.
    """
    paths = find_tables(data_dir, FOLDERS, "PRSA_Data_*", "--dataset temperature")
    if not paths:
        raise DataError(
            f"--dataset temperature: no stations in {data_dir / FOLDERS[0]}, {data_dir / FOLDERS[1]} or {data_dir}, and "
            "none can be downloaded; put there UCI's files PRSA_Data_*.csv (or .csv.gz)"
        )
    return cached(paths[0].parent, paths, "temperature", lambda: _from_stations([_read(path) for path in paths]))


def _from_stations(stations: list[Station]) -> Dataset:
    inside = _parts(stations)
    starts = {
        part: [_starts(each, own) for each, own in zip(stations, masks, strict=True)] for part, masks in inside.items()
    }
    for part, found in starts.items():
        if not any(len(own) for own in found):
            raise DataError(
                f"--dataset temperature: {stations[0].path.parent} has no {part} window of {LENGTH + HORIZON} hours "
                f"without a missing value; it needs some weeks of hourly rows, and has them from {_range(stations)}: if "
                "that is too long, a date is mistyped"
            )
    training = [each.rows[each.usable & own] for each, own in zip(stations, inside["train"], strict=True)]
    scale = Scaler(np.concatenate(training))
    target = (float(scale.mean[0]), float(scale.std[0]))
    splits = {part: _split(stations, found, scale) for part, found in starts.items()}
    groups = np.repeat(np.arange(len(stations)), [len(own) for own in starts["train"]])
    return Dataset(
        "temperature",
        train=splits["train"],
        test=splits["test"],
        classes=0,
        groups=torch.from_numpy(groups),
        validation=splits["validation"],
        target=target,
        notes=(_note(stations, splits), _baseline(splits, target)),
    )


def persistence(split: Split, target: tuple[float, float]) -> tuple[float, float]:
    """Mean absolute error (degrees) and R2 on `split` of the guess that the temperature stays what it was last."""
    guess = split.x[:, -1, 0].double() * target[1] + target[0]
    error, spread = split.y - guess, split.y.double() - split.y.double().mean()
    return float(error.abs().mean()), float(1 - error.square().sum() / spread.square().sum())


def _read(path: Path) -> Station:
    table = read_table(path, "--dataset temperature", (*_TIME, *FEATURES))
    columns = {name: to_numbers(cells) for name, cells in table.columns.items()}
    for name in FEATURES:
        refuse_huge(columns[name], name, str(path), "--dataset temperature")
    return Station(
        path,
        rows=np.stack([columns[name] for name in FEATURES], axis=1),
        hours=_hours(*(columns[name] for name in _TIME)),
        malformed=int(table.malformed.sum()),
    )


def _hours(year: np.ndarray, month: np.ndarray, day: np.ndarray, hour: np.ndarray) -> np.ndarray:
    """Hours since 1970, int64 [N]; -1 where these are no day and hour of this or the last century."""
    whole = np.stack([year, month, day, hour])
    known = np.isfinite(whole).all(0) & (whole == np.rint(whole)).all(0)
    known &= (year >= 1970) & (year < 2100) & (month >= 1) & (month <= 12) & (day >= 1) & (hour >= 0) & (hour <= 23)
    years, months, days, hours = np.where(known, whole, [[1970], [1], [1], [0]]).astype(np.int64)
    first = ((years - 1970) * 12 + months - 1).astype("datetime64[M]")
    date = first.astype("datetime64[D]") + (days - 1)
    known &= date.astype("datetime64[M]") == first  # no 30th of February
    return np.where(known, date.astype(np.int64) * 24 + hours, -1)


def _parts(stations: list[Station]) -> dict[str, list[np.ndarray]]:
    """Which rows of each station, bool [N], are in each split."""
    known = np.concatenate([each.hours[each.hours >= 0] for each in stations])
    if not len(known):
        raise DataError(f"--dataset temperature: no row in {stations[0].path.parent} has year, month, day and hour")
    begin = int(known.min())
    slices = parts_in_time(int(known.max()) - begin + 1, tuple(PARTS.values()), gap=LENGTH)
    return {
        part: [(each.hours >= begin + own.start) & (each.hours < begin + own.stop) for each in stations]
        for part, own in zip(PARTS, slices, strict=True)
    }


def _range(stations: list[Station]) -> str:
    """The first and the last day of any row, in words."""
    days = np.concatenate([each.hours[each.hours >= 0] for each in stations]) // 24
    return f"{days.min().astype('datetime64[D]')} to {days.max().astype('datetime64[D]')}"


def _starts(station: Station, inside: np.ndarray) -> np.ndarray:
    gap = np.zeros(len(inside), dtype=bool)
    gap[1:] = np.diff(station.hours) != 1
    return cut_starts(station.usable & inside, gap, length=LENGTH + HORIZON)


def _split(stations: list[Station], starts: list[np.ndarray], scale: Scaler) -> Split:
    x = [take_windows(scale(each.rows), own, LENGTH) for each, own in zip(stations, starts, strict=True)]
    y = [each.rows[own + LENGTH + HORIZON - 1, 0] for each, own in zip(stations, starts, strict=True)]
    return Split(torch.from_numpy(np.concatenate(x)), torch.from_numpy(np.concatenate(y).astype(np.float32)))


def _note(stations: list[Station], splits: dict[str, Split]) -> str:
    rows, malformed = sum(len(each.rows) for each in stations), sum(each.malformed for each in stations)
    missing = sum(int((~each.usable).sum()) for each in stations) - malformed
    windows = ", ".join(f"{len(split)} {part}" for part, split in splits.items())
    return (
        f"temperature: {len(stations)} stations, {rows} rows, of which {malformed} malformed and {missing} with missing "
        f"values, which end a window; windows: {windows}"
    )


def _baseline(splits: dict[str, Split], target: tuple[float, float]) -> str:
    told = {part: persistence(splits[part], target) for part in ("validation", "test")}
    words = "; ".join(f"{part} MAE {mae:.3f}, R2 {r2:.4f}" for part, (mae, r2) in told.items())
    return f"temperature: to beat is persistence, the last temperature again: {words}"
