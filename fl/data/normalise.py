"""Pictures and columns of numbers to mean 0 and standard deviation 1, by training samples only."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_TOGETHER_BYTES = 1 << 26  # of images, when they are counted


class Normaliser:
    """Subtracts each channel's mean and divides by its standard deviation, both over uint8 training images.

    `mean` and `std` are lists of one float per channel, in pixel values 0 ... 255. Sums are taken in integers, so they
    are exact and the same on every machine and for any number of threads. A constant channel has `std` 1.
    """

    def __init__(self, images: Tensor, rows: Tensor | None = None) -> None:
        """`images`: uint8 [N, C, H, W], not empty; those at `rows`, int64 [M], count, or all."""
        every = torch.arange(len(images)) if rows is None else rows
        shades = torch.zeros(images.shape[1], 256, dtype=torch.int64, device=images.device)
        together = max(1, _TOGETHER_BYTES // images[0].numel())  # a copy of all would be as large as the data
        for some in every.to(images.device).split(together):
            for channel, values in enumerate(images.index_select(0, some).transpose(0, 1)):
                shades[channel] += torch.bincount(values.reshape(-1), minlength=256)
        pixels = int(shades[0].sum())
        self.mean: list[float] = []
        self.std: list[float] = []
        for counts in shades.tolist():
            total = sum(value * count for value, count in zip(range(256), counts, strict=True))
            squares = sum(value * value * count for value, count in zip(range(256), counts, strict=True))
            self.mean.append(total / pixels)
            self.std.append(math.sqrt(pixels * squares - total * total) / pixels or 1.0)
        self._prepare()

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Normaliser":
        """One with these numbers, by channel; without any, for samples that are ready as they are."""
        made = cls.__new__(cls if mean else Identity)
        made.mean, made.std = list(mean), list(std)
        if mean:
            made._prepare()
        return made

    def _prepare(self) -> None:
        scale = torch.tensor([1 / std for std in self.std], dtype=torch.float64)
        shift = torch.tensor(self.mean, dtype=torch.float64) * -scale
        self._scale = scale.float().view(1, -1, 1, 1)
        self._shift = shift.float().view(1, -1, 1, 1)

    def __call__(self, x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """float32 [B, C, H, W] in that memory format, on the device of `x` (uint8 [B, C, H, W])."""
        if self._scale.device != x.device:
            self._scale, self._shift = self._scale.to(x.device), self._shift.to(x.device)
        # the arithmetic is several times faster before the change of layout than after it or together with it
        y = x.to(torch.float32).mul_(self._scale).add_(self._shift)
        return y.contiguous(memory_format=memory_format)


class Identity(Normaliser):
    """For samples that are ready as they are: float32 [B, ...] passes unchanged. `mean` and `std` are empty."""

    def __init__(self) -> None:
        self.mean, self.std = [], []

    def __call__(self, x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
        """`x`; samples [B, C, H, W] in that memory format."""
        return x.contiguous(memory_format=memory_format) if x.ndim == 4 else x


def make_normaliser(x: Tensor, rows: Tensor | None = None) -> Normaliser:
    """What makes inputs of such training samples, those of `x` at `rows` (int64 [M]) or all: uint8 images are normalised,
    float32 is left as it is."""
    return Normaliser(x, rows) if x.dtype == torch.uint8 else Identity()


class Scaler:
    """Subtracts each column's mean and divides by its standard deviation over the training rows.

    `mean` and `std`: float64 [F], in the columns' own units. A column that is constant in training has `std` 1.
    """

    def __init__(self, rows: np.ndarray) -> None:
        """`rows`: finite numbers [N, F], not empty, of the training split alone."""
        self.mean = rows.mean(0, dtype=np.float64)
        std = rows.std(0, dtype=np.float64)
        # a rounding error beside a large constant is no spread
        self.std = np.where(std > 1e-9 * np.abs(self.mean), std, 1.0)

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Scaler":
        """One with these numbers, by column."""
        made = cls.__new__(cls)
        made.mean, made.std = np.array(mean), np.array(std)
        return made

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """float32 of the shape of `rows` ([..., F]); what is not a number stays so."""
        return ((rows - self.mean) / self.std).astype(np.float32)
