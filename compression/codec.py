"""A codec turns a vector into one payload and back: what to send (`select`), how precisely (`values`), and how to write
it down (`index`, `wire`)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import NonFiniteError
from .finite import all_finite
from .layout import Layout
from .select import SELECTOR_NAMES, Selector, make_selector
from .spec import SpecError, nearest, parse
from .values import VALUE_NAMES, ValueFormat
from .wire import Kind, Sparse, read, write


@dataclass(frozen=True)
class Codec:
    """A selector (None: every coordinate) with a value format.

    >>> codec = make_codec("topk:0.01+bf16")
    >>> payload, decoded = codec.encode(update)     # uint8 [bytes], what the receiver will see
    >>> codec.decode(payload, update.numel())       # equal to `decoded`
    """

    spec: str
    selector: Selector | None
    value: ValueFormat

    @property
    def lossless(self) -> bool:
        """Whether every coordinate arrives exactly, so that error feedback has nothing to do."""
        return self.selector is None and self.value is ValueFormat.FP32

    def encode(self, x: Tensor, layout: Layout | None = None, kind: Kind = Kind.UPDATE) -> tuple[Tensor, Sparse]:
        """Encode fp32 [n]; returns the payload, uint8, on the same device, and what a receiver decodes from it.

        `layout` is needed only by scope=layer. What is decoded may share the memory of `x`. Raises NonFiniteError if `x`
        holds NaN or infinity.
        """
        if not all_finite(x):
            raise NonFiniteError("the update holds NaN or infinity: lower the learning rate, or clip the gradient")
        if self.selector is None:
            return write(Sparse(x.numel(), None, x), self.value, kind)
        indices = self.selector.select(x, layout)
        return write(Sparse(x.numel(), indices, x[indices]), self.value, kind)

    def encode_with_residual(
        self, update: Tensor, residual: Tensor | None, layout: Layout | None = None
    ) -> tuple[Tensor, Sparse, Tensor]:
        """Encode update + residual; the third result is the new residual: what was not decoded.

        The new residual takes over the memory of `update` [n], which must not be used afterwards; `residual` [n] (None:
        zero) is only read, so that the caller may discard the result. Where values are exact,
        decoded + new residual == update + old residual, bit for bit.
        """
        total = update if residual is None else update.add_(residual)
        payload, decoded = self.encode(total, layout)
        if decoded.indices is None:
            total = total.sub_(decoded.values) if not self.lossless else torch.zeros_like(total)
        else:
            total.index_copy_(0, decoded.indices, total[decoded.indices] - decoded.values)
        return payload, decoded, total

    def decode(self, payload: Tensor, n: int, kind: Kind = Kind.UPDATE) -> Sparse:
        """Decode a payload, uint8, for a vector of n coordinates; PayloadError unless it is exactly that."""
        return read(payload, n, kind)


def make_codec(spec: str) -> Codec:
    """The codec that a specification names: `none`, a value format, a selector, or `SELECTOR+FORMAT`."""
    stages = list(parse(spec))
    known = ("none", *SELECTOR_NAMES, *VALUE_NAMES)
    for stage in stages:
        if stage.name not in known:
            raise SpecError(f"'{spec}': there is no codec stage '{stage.name}'{nearest(stage.name, known)}")
    if stages[0].name == "none":
        stages[0].expect(0)
        if len(stages) > 1:
            raise SpecError(f"'{spec}': 'none' stands alone; write '{stages[1]}'")
        return Codec(spec, None, ValueFormat.FP32)
    selector = make_selector(stages.pop(0)) if stages[0].name in SELECTOR_NAMES else None
    value = VALUE_NAMES[stages.pop(0).expect(0).name] if stages and stages[0].name in VALUE_NAMES else ValueFormat.FP32
    if stages:
        raise SpecError(f"'{spec}': '{stages[0]}' is out of place; write SELECTOR+FORMAT, as in topk:0.01+bf16")
    return Codec(spec, selector, value)
