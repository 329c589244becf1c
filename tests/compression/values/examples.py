"""Vectors and formats that the tests of value formats share."""

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from compression.values import BF16, FP16, FP32, INT4, INT8, LOG3, LOG4, SIGN, Qsgd, ValueFormat
from tests.compression.cases import vectors

QSGDS = tuple(Qsgd.of(levels) for levels in (1, 2, 7, 8, 127))
BLOCKWISE: tuple[ValueFormat, ...] = (INT8, INT4, LOG4, LOG3, SIGN, *QSGDS)
FORMATS: tuple[ValueFormat, ...] = (FP32, FP16, BF16, *BLOCKWISE)
TINIEST = 2.0**-149

_EDGES = st.sampled_from([255, 256, 257, 511, 512, 513, 767, 1025])


@st.composite
def long_vectors(draw: st.DrawFn) -> Tensor:
    """Finite fp32 around the edges of blocks: normal values, each block of its own size, some of them zero."""
    n = draw(_EDGES)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    low, high = draw(st.sampled_from([(-3, 1), (-45, 38), (0, 0), (36, 38), (-45, -38)]))
    x = rng.standard_normal(n) * 10.0 ** np.repeat(rng.integers(low, high + 1, n // 64 + 1), 64)[:n]
    x[rng.random(n) < draw(st.sampled_from([0.0, 0.0, 0.3]))] = 0
    limit = np.finfo(np.float32).max
    return torch.from_numpy(np.clip(x, -limit, limit).astype(np.float32))


ANY = st.one_of(vectors(), long_vectors())
KEYS = st.integers(0, (1 << 63) - 1)


def there_and_back(form: ValueFormat, x: Tensor, key: int = 0) -> np.ndarray:
    """What a receiver gets, float64."""
    return form.restore(*form.quantise(x, key), x.numel()).double().numpy()


def block_by_block(x: np.ndarray, size: int) -> list[np.ndarray]:
    """The blocks of x, the last perhaps shorter."""
    return [x[start : start + size] for start in range(0, x.size, size)]
