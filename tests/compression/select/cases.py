"""Selectors from text, and vectors beyond the sample of 32,768."""

import numpy as np
import torch
from torch import Tensor

from compression.select import Selector, make_selector
from compression.spec import parse_stage

BIG = 200_000
WIDE = (
    "normal",
    "first block",
    "outside the sample",
    "only the sample",
    "ties",
    "all equal",
    "all zero",
    "mostly zero",
    "one",
    "denormal",
    "huge",
    "sorted",
    "every seventh",
)


def selector(text: str) -> Selector:
    return make_selector(parse_stage(text))


def wide(name: str) -> Tensor:
    """Vectors [200000] that look different from their sample, or have a great many ties."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal(BIG).astype(np.float32)
    sampled = np.arange(1 << 15, dtype=np.int64) * 2654435769 % (1 << 32) * BIG >> 32
    if name == "first block":
        x[4096:] *= 1e-6
    elif name == "outside the sample":
        x *= 1e3
        x[sampled] *= 1e-6
    elif name == "only the sample":
        mask = np.ones(BIG, dtype=bool)
        mask[sampled] = False
        x[mask] = 0
    elif name == "ties":
        x = np.sign(x) * rng.integers(1, 3, BIG).astype(np.float32)
    elif name == "all equal":
        x[:] = -0.25
    elif name == "all zero":
        x[:] = 0
    elif name == "mostly zero":
        x[rng.random(BIG) < 0.999] = 0
    elif name == "one":
        x[:] = 0
        x[123_457] = -1e-45
    elif name == "denormal":
        x = (x * np.float32(1e-40)).astype(np.float32)
    elif name == "huge":
        x = np.clip(x, -1, 1) * np.float32(3.4e38)
    elif name == "sorted":
        x = np.sort(x)
    elif name == "every seventh":
        x[np.arange(BIG) % 7 != 3] = 0
    return torch.from_numpy(x)
