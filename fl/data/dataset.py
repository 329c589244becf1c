"""What a data set is: samples and targets as tensors; train, validation and test apart."""

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl.common.errors import DataError
from fl.common.tensors import channels_of, colours_last, size_of


@dataclass(frozen=True)
class Split:
    """Samples `x` and what is to be learned of each, `y`; DataError if they are anything else.

    `x`: uint8 [N, C, H, W], images, which are normalised when they are used; or float32 [N, ...], ready as it is (windows
    [N, T, F], say), all finite. `y`: int64 [N], classes; or float32 [N], numbers to predict in their own unit, all finite.
    Or text: tokens, int64 [N, T], and `y`, int64 [N, T], the one that follows each.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        _need_tensor("samples x", self.x)
        _need_tensor("targets y", self.y)
        x, y = self.x, self.y
        images = x.dtype == torch.uint8 and x.ndim == 4
        if x.dtype == torch.int64 and x.ndim == 2:
            if y.dtype != torch.int64 or y.shape != x.shape:
                raise DataError(
                    f"tokens {_describe(x)} must have targets y of the same type and shape, not {_describe(y)}"
                )
            return
        if not images and not (x.dtype == torch.float32 and x.ndim >= 2):
            raise DataError(
                f"samples must be images, uint8 [N, C, H, W], tokens, int64 [N, T], or float32 [N, ...], not {_describe(x)}"
            )
        if images and colours_last(tuple(x.shape[1:])):
            raise DataError(
                f"images must be uint8 [N, C, H, W], and {_describe(x)} looks like [N, H, W, C]: x.permute(0, 3, 1, 2)"
            )
        if y.dtype not in (torch.int64, torch.float32) or y.ndim != 1:
            raise DataError(f"labels must be int64 [N], or numbers to predict float32 [N], not {_describe(y)}")
        if len(x) != len(y):
            label, sample = "label" if y.dtype == torch.int64 else "target", "image" if images else "sample"
            raise DataError(f"there must be one {label} per {sample}, not {len(y)} {label}s for {len(x)} {sample}s")
        for name, tensor in (("samples", x), ("targets", y)):
            if tensor.dtype == torch.float32 and not bool(torch.isfinite(tensor).all()):
                raise DataError(f"{name} must be finite numbers, without NaN and infinity")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: Tensor) -> "Split":
        """The samples at these positions (int64 [M]), in that order, as a copy."""
        indices = indices.to(self.x.device)
        return Split(self.x.index_select(0, indices), self.y.index_select(0, indices))

    def to(self, device: torch.device | str) -> "Split":
        """The same samples on another device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Dataset:
    """A named data set: `train` and `test`, and `validation` where it has one of its own, all of one kind and shape.

    `classes`: labels are 0 ... classes-1; 0 where targets are numbers (regression). `augment`: the specification that
    `--augment auto` stands for (see `fl.data.augment`). `groups`, int64 [number of training samples], says which samples
    belong together (those of one writer, say) by non-negative numbers; None where nothing does. `validation`: samples on
    which decisions are made; None: some of the training samples. `class_names`: one for each class, or none at all.
    `target`: mean and standard deviation of the numbers to predict over the training samples; a model predicts
    (y - mean) / deviation. `notes`: sentences for the log of a run. `left_out`: sentences on what of the user's data
    is not used, and how the others were taken, for the terminal too. `bytes_per_token`: of text, whose labels are tokens,
    the mean length of one in UTF-8. `encoding`: JSON, what a reader of the user's files has taken from them to make numbers
    of what they hold. DataError if the parts do not fit together.
    """

    name: str
    train: Split
    test: Split
    classes: int
    augment: str = "none"
    groups: Tensor | None = None
    validation: Split | None = None
    class_names: tuple[str, ...] = ()
    target: tuple[float, float] = (0.0, 1.0)
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    bytes_per_token: float = 1.0
    encoding: str = ""

    def __post_init__(self) -> None:
        splits = {"train": self.train, "test": self.test}
        if self.validation is not None:
            splits["validation"] = self.validation
        self._check_types(splits)
        for part, split in splits.items():
            if len(split) == 0:
                raise DataError(f"{self.name}: the {part} split must not be empty")
            self._check_kind(part, split)
            if self.classes:
                self._check_labels(part, split)
        if self.class_names and len(self.class_names) != self.classes:
            raise DataError(
                f"{self.name}: there must be a name for each of the {self.classes} classes, not {len(self.class_names)}"
            )
        mean, deviation = self.target
        if not (math.isfinite(mean) and math.isfinite(deviation) and deviation > 0):
            raise DataError(
                f"{self.name}: target must be a mean and a standard deviation above 0, both finite, not {self.target}"
            )
        # a deviation of 1 is that of numbers which are not scaled, or do not differ
        if not self.classes and deviation != 1 and is_lost(deviation, float(self.train.y.abs().max())):
            raise DataError(
                f"{self.name}: the spread {deviation:.3g} of targets y is lost beside {float(self.train.y.abs().max()):.3g} "
                "in fp32; subtract a constant first"
            )
        groups = self.groups
        if groups is not None and (
            groups.dtype != torch.int64 or groups.shape != self.train.y.shape[:1] or int(groups.min()) < 0
        ):
            raise DataError(
                f"{self.name}: groups must be int64 [{len(self.train)}], none negative, not {_describe(groups)}"
            )

    def _check_types(self, splits: dict[str, Split]) -> None:
        for part, split in splits.items():
            if not isinstance(split, Split):
                raise DataError(f"{self.name}: {part} must be a Split(x, y), not {_kind(split)}")
        if not isinstance(self.classes, Integral) or self.classes < 0:
            raise DataError(
                f"{self.name}: classes must be an int, how many there are, or 0 where targets are numbers, not "
                f"{self.classes!r}"
            )
        pair = self.target
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(value, Real) for value in pair)):
            raise DataError(f"{self.name}: target must be two numbers, mean and standard deviation, not {pair!r}")
        for field, texts in (
            ("class_names", self.class_names),
            ("notes", self.notes),
            ("left_out", self.left_out),
        ):
            if not (isinstance(texts, (tuple, list)) and all(isinstance(text, str) for text in texts)):
                raise DataError(f"{self.name}: {field} must be a tuple of str, not {texts!r}")
        if self.groups is not None:
            _need_tensor(f"{self.name}: groups", self.groups)

    def _check_kind(self, part: str, split: Split) -> None:
        train, what = self.train, "images" if self.train.x.dtype == torch.uint8 else "samples"
        if split.x.shape[1:] != train.x.shape[1:]:
            raise DataError(
                f"{self.name}: train and {part} {what} must have one shape, "
                f"not {list(train.x.shape[1:])} and {list(split.x.shape[1:])}"
            )
        if split.x.dtype != train.x.dtype:
            raise DataError(
                f"{self.name}: train and {part} samples must have one type, not {train.x.dtype} and {split.x.dtype}"
            )
        wanted = torch.int64 if self.classes else torch.float32
        if split.y.dtype != wanted:
            kind = f"{self.classes} classes are int64" if self.classes else "0 classes means numbers, float32"
            raise DataError(f"{self.name}: {part} targets of {kind} [N], not {_describe(split.y)}")

    def _check_labels(self, part: str, split: Split) -> None:
        low, high = int(split.y.min()), int(split.y.max())
        if low < 0 or high >= self.classes:
            raise DataError(f"{self.name}: {part} labels must lie in 0 ... {self.classes - 1}, not {low} ... {high}")

    @property
    def is_text(self) -> bool:
        """Whether samples are tokens, each of which has a target."""
        return self.train.x.dtype == torch.int64

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: [C, H, W] of images, [T, F] of sequences, [F] of rows, [T] of text."""
        return tuple(self.train.x.shape[1:])

    @property
    def channels(self) -> int:
        """Colour channels of an image; features of a sequence or row."""
        return channels_of(self.sample_shape)

    @property
    def image_size(self) -> int:
        """Height of an image in pixels (its width too, for the built-in data sets); steps of a sequence, 1 for a row."""
        return size_of(self.sample_shape)


def is_lost(spread: float, largest: float) -> bool:
    """Whether numbers of this standard deviation, the largest of this absolute value, are blurred in fp32: whether its
    neighbours there are more than a hundredth of the deviation apart."""
    return float(np.spacing(np.float32(largest))) > 1e-2 * spread


def _need_tensor(what: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        make = "torch.from_numpy" if isinstance(value, np.ndarray) else "torch.tensor"
        raise DataError(f"{what} must be a torch tensor, not {_kind(value)}; {make} makes one")


def _kind(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
