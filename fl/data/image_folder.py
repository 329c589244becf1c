"""The user's own pictures: a folder for each class.

`imagefolder:PATH[,size=N][,channels=1|3][,background=COLOUR][,test=FRACTION]` reads `PATH/train/<class>`,
`PATH/test/<class>` and, if it is there, `PATH/val/<class>`; or `PATH/<class>`, of which it sets a fraction of every class
aside for testing. Pictures may lie in folders of any depth in the folder of their class.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from compression.spec import SpecError, Stage, parse_stage
from fl.common.errors import DataError
from fl.common.names import readable

from .cache import FOLDER, cached
from .dataset import Dataset, Split
from .pictures import count_channels, decode, endings
from .schema import Schema

_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
"""Words that name a split rather than a class, in any case."""

_HIDDEN = frozenset({"__MACOSX", "@eaDir"})
"""What macOS and network disks add, besides names that begin with a point."""

_COLOURS = ("white", "black")
_USES = ("train on", "test on", "validate on")
_SIZE, _TEST = 64, 0.2
_LEAST, _MOST = 8, 1024
_MOST_KINDS = 8  # of what is passed over, in a sentence

Pictures = dict[str, list[Path]]


@dataclass
class _Folder:
    """A specification that has been read; `channels` and `test` are None where the pictures or the folders decide.

    While it loads: how often was passed over what, and the pictures of which transparency leaves nothing to see.
    """

    spec: str
    path: Path
    size: int
    channels: int | None
    background: str
    test: float | None
    schema: Schema | None
    passed: Counter[str] = field(default_factory=Counter)
    blank: list[Path] = field(default_factory=list)

    def load(self) -> Dataset:
        """The data set; DataError for folders and pictures that will not do."""
        if not self.path.is_dir():
            raise DataError(f"--dataset {self.spec}: there is no folder {self.path}")
        self.passed, self.blank = Counter(), []
        unused = self._unused()
        train, test, validation = self._find() if self.schema is None else self._all()
        names = self._names(train)
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
        how = self.spec if self.schema is None else f"{self.spec}\n{self.schema.to_json()}"
        data = cached(self.path, every, how, lambda: self._decode(parts, every, names))
        sizes = [sum(map(len, part.values())) for part in parts]
        counts = ", ".join(f"{size} to {use}" for use, size in zip(_USES, sizes, strict=False))
        return dataclasses.replace(
            data,
            notes=(
                f"imagefolder: {counts}; {len(names)} classes; {self.size}x{self.size} pixels, {data.channels} channel(s)"
                + (f"; not used: {', '.join(unused)}" if unused else ""),
            ),
            left_out=(*self._passed_over(unused), *data.left_out),
        )

    def _all(self) -> tuple[Pictures, Pictures, Pictures]:
        """Every picture to train on, by class, and the first of them to test on: a data set cannot be without."""
        roots = [self.path / part for part in ("train", "val", "test") if _folders(self.path / part)]
        found = [self._classes(root) for root in (roots if _folders(self.path / "train") else [self.path])]
        every = {name: [path for part in found for path in part.get(name, ())] for part in found for name in part}
        first = next((name for name, paths in every.items() if paths), "")
        return every, {first: every[first][:1]} if first else {}, {}

    def _names(self, train: Pictures) -> list[str]:
        """The classes, in their order; DataError for one that is not in the schema."""
        if self.schema is None:
            return sorted(train, key=os.fsencode)
        own = {readable(name): name for name in sorted(train, key=os.fsencode)}
        strange = [name for name in own if name not in self.schema.class_names]
        if strange:
            raise DataError(
                f"--dataset {self.spec}: the server's data have no class {strange[0]}, only "
                f"{', '.join(self.schema.class_names)}"
            )
        return [own.get(name, name) for name in self.schema.class_names]

    def _decode(self, parts: list[Pictures], every: list[Path], names: list[str]) -> Dataset:
        channels = self.schema.shape[0] if self.schema else self.channels or count_channels(every)
        splits = [self._split(part, names, channels) for part in parts]
        return Dataset(
            readable(self.path.resolve().name),
            splits[0],
            splits[1],
            classes=len(names),
            validation=splits[2] if len(splits) > 2 else None,
            class_names=tuple(map(readable, names)),
            left_out=tuple(self._blank()),
        )

    def _passed_over(self, unused: list[str]) -> list[str]:
        words = [f"{count:,} {what}" for what, count in self.passed.most_common(_MOST_KINDS)]
        if len(self.passed) > _MOST_KINDS:
            words.append(f"{len(self.passed) - _MOST_KINDS} more kinds")
        words += [f"folder {name}" for name in unused]
        return [f"imagefolder: passed over: {readable(', '.join(words))}"] if words else []

    def _blank(self) -> list[str]:
        if not self.blank:
            return []
        first = min(self.blank, key=os.fsencode)
        return [
            f"imagefolder: {len(self.blank):,} pictures with transparency are of a single colour on "
            f"{self.background}, {readable(str(first))} among them; "
            f"background={'black' if self.background == 'white' else 'white'} may show what they hold"
        ]

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
        root = self.path
        if _folders(self.path / "train"):
            self._pass_over_loose(self.path)
            root = self.path / "train"
        train = self._classes(root)
        empty = [name for name, paths in train.items() if not paths]
        if empty:
            raise DataError(
                f"--dataset {self.spec}: {root / empty[0]} holds no pictures (.png, .jpg, or another ending that Pillow "
                "reads)"
            )
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
            strange = sorted(part.keys() - train.keys(), key=os.fsencode)
            if strange:
                raise DataError(
                    f"--dataset {self.spec}: for {self.path / folder / strange[0]} there is no folder {root / strange[0]}"
                )
        return train, test, validation

    def _classes(self, folder: Path) -> Pictures:
        """The pictures of every class, in the order of their paths' bytes, which is the same on every machine."""
        self._pass_over_loose(folder)
        return {sub.name: sorted(self._pictures(sub), key=os.fsencode) for sub in _folders(folder)}

    def _pictures(self, class_folder: Path) -> Iterator[Path]:
        """All pictures in the folder of a class and in the folders there, each folder once whatever links lead to it."""
        self._refuse_splits(class_folder)
        above = {*class_folder.absolute().parents, *class_folder.resolve().parents}
        seen = {_identity(folder) for folder in above}  # a link there would bring in the other classes
        waiting = [class_folder]
        while waiting:
            folder = waiting.pop()
            if _identity(folder) in seen:
                self.passed["links to a folder that is read anyway"] += 1
                continue
            seen.add(_identity(folder))
            for path in _listed(folder):
                if not _is_hidden(path) and path.is_dir():
                    waiting.append(path)
                elif _is_picture(path):
                    yield path
                else:
                    self._pass_over(path)

    def _pass_over_loose(self, folder: Path) -> None:
        """Count what lies beside the folders in this one."""
        for path in _listed(folder) if folder.is_dir() else ():
            if _is_hidden(path) or not path.is_dir():
                self._pass_over(path)

    def _pass_over(self, path: Path) -> None:
        if _is_hidden(path):
            what = "hidden"
        elif _is_picture(path):
            what = "pictures outside the folder of a class"
        else:
            what = f"with the ending {path.suffix}" if path.suffix else "without an ending"
        self.passed[what] += 1

    def _refuse_splits(self, class_folder: Path) -> None:
        """DataError where the folder of a class holds splits: to read them as one would test on what was trained on."""
        splits = [sub.name for sub in _folders(class_folder) if sub.name.casefold() in _SPLITS]
        if len(splits) > 1:
            raise DataError(
                f"--dataset {self.spec}: {class_folder} holds the splits {' and '.join(splits)}; pictures belong in "
                "train/<class>, test/<class> and val/<class>"
            )

    def _split(self, part: Pictures, names: list[str], channels: int) -> Split:
        paths = [path for name in names for path in part.get(name, ())]
        labels = [number for number, name in enumerate(names) for _ in part.get(name, ())]
        pixels = decode(
            paths, size=self.size, channels=channels, fit=True, background=self.background, blank=self.blank
        )
        return Split(pixels, torch.tensor(labels, dtype=torch.int64))


def reader(spec: str, schema: Schema | None = None) -> Callable[[], Dataset]:
    """What loads the data set that the specification names; SpecError if it cannot be read.

    Classes are the names of the folders, in alphabetical order. Every picture is scaled until its shorter side has `size`
    pixels (64) and cut to the middle square. Grey pictures alone give one channel, others three, unless `channels` says so.
    What is transparent shows the `background`, white or black.
    Without a folder `test`, the fraction `test` (0.2) of every class is set aside, always the same pictures. With a `schema`
    classes and channels are as it says; not every class must have a folder.
    """
    stage = parse_stage(spec).expect(1, ["size", "channels", "background", "test"])
    channels = _whole(stage, "channels", 1, 3)
    if channels == 2:
        raise SpecError(f"'{spec}': channels must be 1 (grey) or 3 (colour), not 2")
    test = stage.option("test", 0.01, 0.9) if "test" in stage.options else None
    background = stage.options.get("background", _COLOURS[0])
    if background not in _COLOURS:
        raise SpecError(f"'{spec}': background must be {' or '.join(_COLOURS)}, not {background}")
    path = Path(stage.args[0])
    return _Folder(spec, path, _whole(stage, "size", _LEAST, _MOST) or _SIZE, channels, background, test, schema).load


def _whole(stage: Stage, key: str, low: int, high: int) -> int | None:
    if key not in stage.options:
        return None
    value = stage.option(key, low, high)
    if value != int(value):
        raise SpecError(f"'{stage}': {key} must be a whole number, not {stage.options[key]}")
    return int(value)


def _folders(path: Path) -> list[Path]:
    """The folders in this one, hidden ones apart; none if there is no such folder."""
    return [sub for sub in _listed(path) if sub.is_dir() and not _is_hidden(sub)] if path.is_dir() else []


def _listed(folder: Path) -> list[Path]:
    """What the folder holds, in the order of the names' bytes."""
    try:
        return sorted((path for path in folder.iterdir() if path.name != FOLDER), key=os.fsencode)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from None


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_hidden(path: Path) -> bool:
    return path.name[0] == "." or path.name in _HIDDEN


def _is_picture(path: Path) -> bool:
    """Whether a file is one by its name; a link that leads nowhere is one that cannot be read."""
    return path.suffix.lower() in endings() and not _is_hidden(path) and (path.is_file() or not path.exists())


def _set_aside(classes: Pictures, fraction: float) -> tuple[Pictures, Pictures]:
    """The rest, and the fraction of every class to test on: at least one picture of each, and never all."""
    legacy = np.random.RandomState(0)  # its stream is frozen for good, unlike Generator's
    train, test = {}, {}
    for name in sorted(classes, key=os.fsencode):
        paths = classes[name]
        order = legacy.permutation(len(paths))
        held = min(max(round(fraction * len(paths)), 1), len(paths) - 1)
        test[name] = [paths[at] for at in sorted(order[:held])]
        train[name] = [paths[at] for at in sorted(order[held:])]
    return train, test
