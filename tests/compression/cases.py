"""Vectors and specifications that the codec tests share."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from compression import Layout

EXAMPLES = settings(deadline=None, derandomize=True, max_examples=40)

FEW = settings(EXAMPLES, max_examples=25)
KEYS = st.integers(0, (1 << 63) - 1)

SELECTORS = (
    *("topk:0.01", "topk:0.3", "topk:1", "topk:0.2,scope=layer", "topk:0.2,chunk=7", "topk:0.1,scope=layer,chunk=16"),
    *("prune:0.9", "prune:0.5", "prune:0", "prune:1", "prune:0.8,scope=layer"),
    *("threshold:1e-3", "threshold:1e-38", "threshold:2"),
    *("randk:0.1", "randk:1"),
    *("cost:0.05", "cost:0.3,linear=2,bias=0.5"),
)
ROUNDED = ("topk:0.3", "topk:0.2,scope=layer", "prune:0.9", "threshold:1e-3", "randk:0.2", "cost:0.3")
FORMATS = ("fp16", "bf16", "int8", "int4", "log4", "log3", "log2", "sign", "qsgd:5")
LOW_RANK = ("powersgd:1", "powersgd:2", "powersgd:1+bf16", "powersgd:2+int8")
# Each may be followed by +zstd.
PLAIN = ("fp32", *FORMATS, *SELECTORS, *(f"{name}+{form}" for name in ROUNDED for form in FORMATS), *LOW_RANK)
SPECS = ("none", *PLAIN, *(f"{spec}+zstd" for spec in PLAIN))

_MAX = float(np.finfo(np.float32).max)
_SIZES = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257])
_ANY = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
_AWKWARD = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-40, 65504.0, 65520.0, -7e4, _MAX, -_MAX, 3.39e38])


@st.composite
def vectors(draw: st.DrawFn) -> Tensor:
    """Finite fp32: any values, few distinct ones (ties), all equal, all zero; lengths around powers of two."""
    n = draw(_SIZES)
    elements = draw(st.sampled_from([_ANY, _AWKWARD, st.just(draw(_AWKWARD)), st.sampled_from([-1.0, 0.0, 1.0, 2.0])]))
    return torch.from_numpy(draw(arrays.arrays(np.float32, n, elements=elements, fill=elements)))


def layers(n: int) -> Layout:
    """A layout of n coordinates in tensors of uneven sizes: an empty one, a scalar, vectors, convolutions, matrices."""
    shapes: list[tuple[int, ...]] = [(0,)]
    left, size = n, 1
    while left:
        size = min(left, size * 3)
        if size % 27 == 0:
            shapes.append((size // 9, 3, 3))
        else:
            shapes.append((size // 2, 2) if size % 2 == 0 else (size,) if size > 1 else ())
        left -= size
    return Layout(tuple(f"layer{i}" for i in range(len(shapes))), tuple(shapes))


def encodable(spec: str, x: Tensor) -> Tensor:
    """`x`, cut to magnitudes whose low-rank factors are finite where the codec makes such factors."""
    return x.clamp(-1e30, 1e30) if spec.startswith("powersgd") else x


def bits(x: Tensor) -> bytes:
    """The bit pattern: -0.0 differs from 0.0."""
    return x.contiguous().numpy().tobytes()


def largest(x: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest magnitudes by a stable sort of all, so that ties go to the lowest position."""
    return np.sort(np.argsort(-np.abs(x), kind="stable")[:k])
