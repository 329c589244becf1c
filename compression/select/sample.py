"""Samples of a vector: they say where to look, and so decide how long a selection takes, never what it finds."""

import math

import numpy as np
import torch
from torch import Tensor

_SAMPLE = 1 << 15


def sample_positions(n: int, device: torch.device) -> Tensor:
    """Int64 [min(n, 32768)]: all positions, or those of a golden-ratio sequence, which spreads evenly and is the same on
    any device."""
    if n <= _SAMPLE:
        return torch.arange(n, device=device)
    return torch.arange(_SAMPLE, device=device) * 2654435769 % (1 << 32) * n >> 32


def sampled_magnitudes(x: Tensor) -> Tensor:
    """Fp32 [min(n, 32768)]: the magnitudes at `sample_positions`."""
    return (x if x.numel() <= _SAMPLE else x[sample_positions(x.numel(), x.device)]).abs()


def margin(expected: float) -> float:
    """Four standard deviations of a count of which `expected` are expected, and a little for small counts."""
    return 4 * math.sqrt(expected) + 4


def kth_largest(values: Tensor, k: int) -> float:
    """The k-th largest of [n] values, 1 <= k <= n."""
    if values.device.type == "cpu":
        return float(np.partition(values.numpy(), values.numel() - k)[values.numel() - k])
    return float(torch.topk(values, k, sorted=False).values.min())


def falling(values: Tensor) -> Tensor:
    """Indices, int64 [n], that put `values` [n] into falling order; equals in any order."""
    if values.device.type == "cpu":  # several times as fast as torch's sort
        return torch.from_numpy(np.argsort(values.numpy())[::-1].copy())
    return values.argsort(descending=True)
