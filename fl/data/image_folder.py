"""The user's own pictures: a folder for each class.

`imagefolder:PATH[,size=N][,channels=1|3][,test=FRACTION]` reads `PATH/train/<class>/*`, `PATH/test/<class>/*` and, if it is
there, `PATH/val/<class>/*`; or `PATH/<class>/*`, of which it sets a fraction of every class aside for testing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from compression.spec import SpecError, Stage, parse_stage
from fl.data.dataset import Dataset, Split
from fl.data.pictures import count_channels, decode
from fl.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
"""Files with other endings, in lower or upper case, and hidden ones are not looked at."""

_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
"""Words that name a split rather than a class, in any case."""

_USES = ("train on", "test on", "validate on")
_SIZE, _TEST = 64, 0.2
_LEAST, _MOST = 8, 1024

Pictures = dict[str, list[Path]]


@dataclass(frozen=True)
class _Folder:
    """A specification that has been read; `channels` and `test` are None where the pictures or the folders decide."""

    spec: str
    path: Path
    size: int
    channels: int | None
    test: float | None

    def load(self) -> Dataset:
        """The data set; DataError for folders and pictures that will not do."""
        if not self.path.is_dir():
            raise DataError(f"--dataset {self.spec}: there is no folder {self.path}")
        unused = self._unused()
        train, test, validation = self._find()
        names = sorted(train)
        if len(names) < 2:
            raise DataError(
                f"--dataset {self.spec}: {self.path}, or train and test in it, must hold a folder for each of at least two "
                f"classes, not {len(names)}"
            )
        parts = [train, test, *([validation] if validation else [])]
        for part, use in zip(parts, _USES, strict=False):
            if not any(part.values()):
                raise DataError(
                    f"--dataset {self.spec}: {self.path} has no picture to {use}; to set some aside to test on, a class "
                    "needs two"
                )
        every = [path for part in parts for paths in part.values() for path in paths]
        channels = self.channels or count_channels(every)
        splits = [self._split(part, names, channels) for part in parts]
        counts = ", ".join(f"{len(split)} to {use}" for use, split in zip(_USES, splits, strict=False))
        return Dataset(
            self.path.resolve().name,
            splits[0],
            splits[1],
            classes=len(names),
            validation=splits[2] if validation else None,
            class_names=tuple(names),
            notes=(
                f"imagefolder: {counts}; {len(names)} classes; {self.size}x{self.size} pixels, {channels} channel(s)"
                + (f"; not used: {', '.join(unused)}" if unused else ""),
            ),
        )

    def _unused(self) -> list[str]:
        """Names of folders in PATH that hold neither a split nor a class; DataError if one was to hold a split."""
        names = [folder.name for folder in _folders(self.path)]
        splits = [name for name in names if name.casefold() in _SPLITS]
        right = "pictures belong in train/<class>, test/<class> and val/<class>"
        if _folders(self.path / "train"):
            if self.test is not None and not _folders(self.path / "test"):
                splits = [name for name in splits if name != "test"]
            for name in splits:
                if name not in ("train", "test", "val") or not _folders(self.path / name):
                    what = "holds no folder of a class" if name in ("test", "val") else "would not be used"
                    aside = " (test=0.2 sets a fifth of train aside instead)" if name == "test" else ""
                    raise DataError(f"--dataset {self.spec}: {self.path / name} {what}; {right}{aside}")
            return [name for name in names if name not in splits]
        for name in splits:
            if len(splits) > 1 or _folders(self.path / name):
                raise DataError(
                    f"--dataset {self.spec}: {self.path / name} is a split by its name, not a class; {right}"
                )
        return []

    def _find(self) -> tuple[Pictures, Pictures, Pictures]:
        """The pictures to train on, to test on and to validate on, by class."""
        root = self.path / "train" if _folders(self.path / "train") else self.path
        train = self._classes(root)
        empty = [name for name, paths in train.items() if not paths]
        if empty:
            raise DataError(f"--dataset {self.spec}: {root / empty[0]} holds no pictures ({', '.join(ENDINGS)})")
        if root == self.path or not _folders(self.path / "test"):
            train, test = _set_aside(train, _TEST if self.test is None else self.test)
        elif self.test is not None:
            raise DataError(
                f"--dataset {self.spec}: {self.path} has a folder test already; leave test={self.test:g} out"
            )
        else:
            test = self._classes(self.path / "test")
        validation = {} if root == self.path else self._classes(self.path / "val")
        for part, folder in ((test, "test"), (validation, "val")):
            strange = sorted(part.keys() - train.keys())
            if strange:
                raise DataError(
                    f"--dataset {self.spec}: for {self.path / folder / strange[0]} there is no folder {root / strange[0]}"
                )
        return train, test, validation

    def _classes(self, folder: Path) -> Pictures:
        return {
            sub.name: sorted(path for path in sub.iterdir() if path.suffix.lower() in ENDINGS and path.name[0] != ".")
            for sub in _folders(folder)
        }

    def _split(self, part: Pictures, names: list[str], channels: int) -> Split:
        paths = [path for name in names for path in part.get(name, ())]
        labels = [number for number, name in enumerate(names) for _ in part.get(name, ())]
        pixels = decode(paths, size=self.size, channels=channels, fit=True)
        return Split(pixels, torch.tensor(labels, dtype=torch.int64))


def reader(spec: str) -> Callable[[], Dataset]:
    """What loads the data set that the specification names; SpecError if it cannot be read.

    Classes are the names of the folders, in alphabetical order. Every picture is scaled until its shorter side has `size`
    pixels (64) and cut to the middle square. Grey pictures alone give one channel, others three, unless `channels` says so.
    Without a folder `test`, the fraction `test` (0.2) of every class is set aside, always the same pictures.
    """
    stage = parse_stage(spec).expect(1, ["size", "channels", "test"])
    channels = _whole(stage, "channels", 1, 3)
    if channels == 2:
        raise SpecError(f"'{spec}': channels must be 1 (grey) or 3 (colour), not 2")
    test = stage.option("test", 0.01, 0.9) if "test" in stage.options else None
    path = Path(stage.args[0]).expanduser()
    return _Folder(spec, path, _whole(stage, "size", _LEAST, _MOST) or _SIZE, channels, test).load


def _whole(stage: Stage, key: str, low: int, high: int) -> int | None:
    if key not in stage.options:
        return None
    value = stage.option(key, low, high)
    if value != int(value):
        raise SpecError(f"'{stage}': {key} must be a whole number, not {stage.options[key]}")
    return int(value)


def _folders(path: Path) -> list[Path]:
    """The folders in this one, hidden ones apart; none if there is no such folder."""
    return sorted(sub for sub in path.iterdir() if sub.is_dir() and sub.name[0] != ".") if path.is_dir() else []


def _set_aside(classes: Pictures, fraction: float) -> tuple[Pictures, Pictures]:
    """The rest, and the fraction of every class to test on: at least one picture of each, and never all."""
    legacy = np.random.RandomState(0)  # its stream is frozen for good, unlike Generator's
    train, test = {}, {}
    for name in sorted(classes):
        paths = classes[name]
        order = legacy.permutation(len(paths))
        held = min(max(round(fraction * len(paths)), 1), len(paths) - 1)
        test[name] = [paths[at] for at in sorted(order[:held])]
        train[name] = [paths[at] for at in sorted(order[held:])]
    return train, test
