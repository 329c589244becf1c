"""Which coordinates to send. A selector maps a vector to ascending positions; it depends on the values alone.

topk:R        the R * n largest magnitudes, exactly; ties go to the lowest position (Aji & Heafield 2017).
prune:S       gradient-magnitude pruning: about the fraction S of smallest magnitudes is dropped, by a sampled quantile.
threshold:T   every magnitude of at least T is sent (Strom 2015).

`scope=layer` applies topk and prune to each tensor by itself instead of to the whole vector.
"""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from .bits import flat_nonzero
from .layout import Layout
from .spec import SpecError, Stage

_SAMPLE = 1 << 15
_CHUNK = 1 << 18  # coordinates; magnitudes and comparisons of one chunk stay in a CPU core's cache


class Selector(ABC):
    """Chooses coordinates of a vector; `per_layer` says that each tensor of the layout is taken by itself."""

    def __init__(self, *, per_layer: bool = False) -> None:
        self.per_layer = per_layer
        self._scratch: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def pick(self, x: Tensor) -> Tensor:
        """Ascending positions, int64 [k], of the coordinates of fp32 [n] to send."""

    def select(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """`pick` on the whole of `x`, or on each tensor of `layout` where the scope is the layer."""
        if not self.per_layer:
            return self.pick(x)
        if layout is None:
            raise ValueError("scope=layer needs to know the layers: pass a layout")
        parts = [self.pick(part) + offset for part, offset in zip(x.split(layout.sizes), layout.offsets, strict=False)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=x.device)

    def at_least(self, x: Tensor, threshold: float) -> Tensor:
        """Ascending positions of the coordinates with a magnitude of at least `threshold` that are not zero."""
        threshold = max(threshold, np.nextafter(np.float32(0), np.float32(1)).item())
        chunk = _CHUNK if x.device.type == "cpu" else max(1, x.numel())
        if self._scratch is None or self._scratch[0].device != x.device or self._scratch[0].numel() < chunk:
            with torch.inference_mode(False):  # what is made in inference mode cannot be written to outside it
                self._scratch = (
                    torch.empty(chunk, device=x.device),
                    torch.empty(chunk, dtype=torch.bool, device=x.device),
                )
        found = []
        for start in range(0, x.numel(), chunk):
            part = x[start : start + chunk]
            magnitude, mask = (buffer[: part.numel()] for buffer in self._scratch)
            torch.abs(part, out=magnitude)
            torch.ge(magnitude, threshold, out=mask)
            found.append(flat_nonzero(mask).add_(start))
        return torch.cat(found) if found else torch.empty(0, dtype=torch.int64, device=x.device)


class TopK(Selector):
    """The round(ratio * n) largest magnitudes, at least one; exact."""

    def __init__(self, ratio: float, *, per_layer: bool = False) -> None:
        super().__init__(per_layer=per_layer)
        self.ratio = ratio

    def pick(self, x: Tensor) -> Tensor:
        """As in `Selector.pick`.

        A sample gives a threshold that a little more than k coordinates pass; only those are ranked. The sample changes
        the time taken, never the result: a threshold that lets too few pass is lowered until enough do.
        """
        n = x.numel()
        k = min(n, max(1, round(self.ratio * n)))
        if k == n:
            return torch.arange(n, device=x.device)
        sample = _sampled_magnitudes(x)
        expected = k / n * sample.numel()
        rank = math.ceil(expected + 4 * math.sqrt(expected) + 4)
        while rank < sample.numel():
            candidates = self.at_least(x, _kth_largest(sample, rank))
            if candidates.numel() >= k:
                return _largest(x, candidates, k)
            rank *= 2
        return _largest(x, torch.arange(n, device=x.device), k)


class Prune(Selector):
    """Drops about the fraction `sparsity` of smallest magnitudes; the quantile is that of a sample of 32,768."""

    def __init__(self, sparsity: float, *, per_layer: bool = False) -> None:
        super().__init__(per_layer=per_layer)
        self.sparsity = sparsity

    def pick(self, x: Tensor) -> Tensor:
        """As in `Selector.pick`."""
        if not x.numel():
            return torch.empty(0, dtype=torch.int64, device=x.device)
        sample = _sampled_magnitudes(x)
        rank = max(1, round((1 - self.sparsity) * sample.numel()))
        return self.at_least(x, _kth_largest(sample, rank))


class Threshold(Selector):
    """Every coordinate with a magnitude of at least `threshold`."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def pick(self, x: Tensor) -> Tensor:
        """As in `Selector.pick`."""
        return self.at_least(x, self.threshold)


def make_selector(stage: Stage) -> Selector:
    """The selector that a stage of a specification names; SpecError if its parameters are wrong."""
    if stage.name == "threshold":
        return Threshold(stage.expect(1).number(0, 1e-38, 1e38, "the threshold"))
    stage.expect(1, ("scope",))
    scope = stage.options.get("scope", "global")
    if scope not in ("global", "layer"):
        raise SpecError(f"'{stage}': scope must be global or layer, not '{scope}'")
    if stage.name == "topk":
        return TopK(stage.number(0, 1e-9, 1, "the kept fraction"), per_layer=scope == "layer")
    return Prune(stage.number(0, 0, 1, "the sparsity"), per_layer=scope == "layer")


SELECTOR_NAMES = ("topk", "prune", "threshold")


def _sampled_magnitudes(x: Tensor) -> Tensor:
    """Magnitudes at positions of a golden-ratio sequence, which spreads evenly and repeats on any device."""
    n = x.numel()
    if n <= _SAMPLE:
        return x.abs()
    weyl = torch.arange(_SAMPLE, device=x.device) * 2654435769 % (1 << 32)
    return x[weyl * n >> 32].abs()


def _kth_largest(values: Tensor, k: int) -> float:
    if values.device.type == "cpu":
        return float(np.partition(values.numpy(), values.numel() - k)[values.numel() - k])
    return float(torch.topk(values, k, sorted=False).values.min())


def _largest(x: Tensor, candidates: Tensor, k: int) -> Tensor:
    """The k of the ascending `candidates` with the largest magnitudes, the lowest positions first among equals."""
    magnitudes = x[candidates].abs()
    bound = _kth_largest(magnitudes, k)
    keep = magnitudes > bound
    ties = flat_nonzero(magnitudes == bound)
    keep[ties[: k - int(keep.sum())]] = True
    return candidates[flat_nonzero(keep)]
