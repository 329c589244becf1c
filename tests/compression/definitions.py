"""What each specification means, written out in NumPy: the oracle of the codec tests. For vectors of up to 32,768."""

import itertools
import math
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from compression import Layout, make_codec
from compression.codec import LowRankCodec, SparseCodec
from compression.draws import derive_key, random_positions
from compression.select.cost import DEFAULT_COSTS, kind_of
from compression.values import ValueFormat
from tests.compression.cases import largest


def selected(spec: str, x: np.ndarray, layout: Layout, key: int) -> np.ndarray | None:
    """Positions by the definitions in `compression/select`; None for all."""
    name, _, rest = spec.split("+")[0].partition(":")
    if name not in ("topk", "prune", "threshold", "randk", "cost"):
        return None
    number = float(rest.split(",")[0])
    if name == "threshold":
        return np.flatnonzero(np.abs(x) >= np.float32(number))
    if name == "cost":
        return _within_budget(rest, x, layout)
    found = [np.empty(0, dtype=np.int64)]
    bounds = [*layout.offsets] if "layer" in rest else [0, x.size]
    if "chunk=" in rest:
        chunk = int(rest.partition("chunk=")[2])
        bounds = [at for a, b in itertools.pairwise(bounds) for at in range(a, b, chunk)] + [x.size]
    for start, stop in itertools.pairwise(bounds):
        part, n = x[start:stop], stop - start
        if not n:
            continue
        count = min(n, max(1, round(number * n)))
        if name == "randk":
            chosen = random_positions(key, n, count, "cpu").numpy()
        elif name == "topk":
            chosen = largest(part, count)
        else:
            bound = np.sort(np.abs(part))[::-1][max(1, round((1 - number) * n)) - 1]
            chosen = np.flatnonzero((np.abs(part) >= bound) & (part != 0))
        found.append(chosen + start)
    return np.concatenate(found)


def _within_budget(arguments: str, x: np.ndarray, layout: Layout) -> np.ndarray:
    """Coordinates by falling magnitude per cost for as long as the budget lasts, at least one."""
    ratio, *options = arguments.split(",")
    costs = {**DEFAULT_COSTS, **{kind: float(cost) for kind, cost in (option.split("=") for option in options)}}
    of_tensors = [costs[kind_of(*tensor)] for tensor in zip(layout.names, layout.shapes, strict=True)]
    thousandths = np.repeat([round(1000 * cost) for cost in of_tensors], layout.sizes)
    order = np.argsort(-np.abs(x).astype(np.float64) / thousandths, kind="stable")
    budget = math.floor(Fraction(ratio) * int(thousandths.sum()))
    return np.sort(order[: max(1, int((np.cumsum(thousandths[order]) <= budget).sum()))])


def rounded(value: ValueFormat, values: np.ndarray, key: int) -> np.ndarray:
    """Floats: to the nearest number of the format, what is out of reach to its largest. Coded formats: what they restore."""
    tensor = torch.from_numpy(values)
    if value.name == "fp32":
        return values
    if value.name == "fp16":
        return np.clip(values, -65504, 65504).astype(np.float16).astype(np.float32)
    if value.name == "bf16":
        limit = torch.finfo(torch.bfloat16).max
        return tensor.clamp(-limit, limit).bfloat16().float().numpy()
    return value.restore(*value.quantise(tensor, key), values.size).numpy()


def promised(spec: str, x: Tensor, layout: Layout, key: int) -> tuple[np.ndarray, np.ndarray | None]:
    """The vector that arrives, fp32 [n], and the positions that were selected, None for all."""
    codec, values = make_codec(spec), x.numpy()
    if isinstance(codec, LowRankCodec):
        factors, _ = codec.body.factorise(x, layout, None, key)
        sent = torch.from_numpy(rounded(codec.factors.value, factors.numpy(), key))
        return codec.body.expand(sent, layout).numpy(), None
    assert isinstance(codec, SparseCodec)
    positions = selected(spec, values, layout, key)
    at = np.arange(values.size) if positions is None else positions
    expected = np.zeros(values.size, dtype=np.float32)
    expected[at] = rounded(codec.value, values[at], derive_key(key, 1) if spec.startswith("randk") else key)
    return expected, positions
