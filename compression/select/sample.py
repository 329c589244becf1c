"""Samples of a vector: they say where to look, and so decide how long a selection takes, never what it finds."""

import math

import numpy as np
import torch
from torch import Tensor

from ..placement import HOST, move

_SAMPLE = 1 << 15


def sample_positions(n: int) -> Tensor:
    """Int64 [min(n, 32768)] on the host: all positions, or those of a golden-ratio sequence, which spreads evenly."""
    if n <= _SAMPLE:
        return torch.arange(n, device=HOST)
    return torch.arange(_SAMPLE, device=HOST) * 2654435769 % (1 << 32) * n >> 32


def sampled_magnitudes(x: Tensor) -> Tensor:
    """Fp32 [min(n, 32768)] on the host: the magnitudes at `sample_positions`."""
    return move(x if x.numel() <= _SAMPLE else x[move(sample_positions(x.numel()), x.device)], HOST).abs()


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
