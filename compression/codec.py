"""A codec turns a vector into one payload and back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import NonFiniteError, PayloadError
from .finite import all_finite
from .layout import Layout, need_layout
from .lowrank import LowRank
from .phases import phase
from .select import Selector
from .spec import SpecError
from .values import FP32, ValueFormat
from .wire import Kind, Sparse, read, write

Memory = Mapping[str, Tensor]


def most_bytes(kept: int) -> int:
    """No payload of `kept` coordinates is longer: each takes at most a value and an index of 4 bytes, and what an entropy
    coder may add stays below as much again."""
    return 4096 + 12 * kept


class Codec(ABC):
    """What to send, how precisely, and how to write it down.

        codec = make_codec("topk:0.01+bf16")
        payload, decoded = codec.encode(update)     # uint8 [bytes], what the receiver will see
        codec.decode(payload, update.numel())       # equal to `decoded`

    A codec keeps nothing between messages (`Sender` does) but scratch memory: use one codec in one thread at a time.
    A codec of your own (`make_codec` takes it as `module:function`) has `spec`, `_encode` and `decode`, and overrides the
    properties that are true of it.
    """

    spec: str

    @property
    def lossless(self) -> bool:
        """Whether every coordinate arrives exactly, so that error feedback has nothing to do."""
        return False

    @property
    def plain(self) -> bool:
        """Whether it is `none`: a payload is the vector's own bytes, and a collective may take its place."""
        return False

    @property
    def sparse(self) -> bool:
        """Whether it leaves coordinates out."""
        return False

    @property
    def warm(self) -> bool:
        """Whether it wants something of the last message at the next one."""
        return False

    @property
    def by_shape(self) -> bool:
        """Whether it codes tensors by their shapes, which what lies inside a mask has lost."""
        return False

    @property
    def density(self) -> float | None:
        """The fraction of coordinates kept; None if the codec has no such parameter."""
        return None

    def most_bytes(self, layout: Layout) -> int:
        """No payload of a vector of `layout` is longer: a bound, not tight, for who must find memory for it."""
        return most_bytes(layout.total)

    def with_density(self, density: float) -> "Codec":
        """The same codec with another kept fraction; SpecError if it has none."""
        raise SpecError(f"'{self.spec}' keeps no fraction that could change; topk, randk, cost and prune do")

    def encode(self, x: Tensor, layout: Layout | None = None, *, key: int = 0) -> tuple[Tensor, Sparse]:
        """Encode fp32 [n]; returns the payload, uint8, on the same device, and what a receiver decodes from it.

        `layout` is needed by codecs that look at tensors one by one. `key` seeds random choices (`draws.derive_key`): a
        fresh one for each message. What is decoded may share the memory of `x`. Raises NonFiniteError if `x` holds NaN
        or infinity.
        """
        payload, decoded, _ = self.encode_warm(x, layout, key=key, memory={})
        return payload, decoded

    @phase("code")
    def encode_warm(
        self, x: Tensor, layout: Layout | None, *, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        """`encode` with what the codec wanted to be handed at this message, and what it wants at the next one."""
        if x.dtype is not torch.float32 or x.dim() != 1 or (layout is not None and layout.total != x.numel()):
            wanted = "" if layout is None else f" of {layout.total} coordinates, as the layout says"
            raise ValueError(f"a codec encodes one fp32 vector{wanted}, not {x.dtype} of shape {tuple(x.shape)}")
        if not all_finite(x):
            raise NonFiniteError("the update holds NaN or infinity: lower the learning rate, or clip the gradient")
        return self._encode(x, layout, key, memory)

    @abstractmethod
    def _encode(
        self, x: Tensor, layout: Layout | None, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        """`encode_warm` of an `x` that is fp32 [n] and finite; with {} unless the codec is `warm`."""

    @abstractmethod
    def decode(self, payload: Tensor, n: int, layout: Layout | None = None) -> Sparse:
        """Decode a payload, uint8, for a vector of n coordinates; PayloadError unless it is exactly that."""


@dataclass(frozen=True)
class SparseCodec(Codec):
    """A selector (None: every coordinate), a value format, and, with `coded`, an entropy coder (`+zstd`)."""

    spec: str
    selector: Selector | None
    value: ValueFormat
    coded: bool = False
    kind: Kind = Kind.UPDATE

    @property
    def lossless(self) -> bool:
        return self.selector is None and self.value.exact

    @property
    def plain(self) -> bool:
        return self.lossless and not self.coded

    @property
    def sparse(self) -> bool:
        return self.selector is not None

    @property
    def density(self) -> float | None:
        return None if self.selector is None else self.selector.density

    def most_bytes(self, layout: Layout) -> int:
        return most_bytes(layout.total if self.selector is None else self.selector.most_kept(layout))

    def with_density(self, density: float) -> Codec:
        if self.selector is None or self.selector.density is None:
            return super().with_density(density)
        return replace(self, selector=self.selector.with_density(density))

    def _encode(
        self, x: Tensor, layout: Layout | None, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        with phase("select"):
            indices = None if self.selector is None else self.selector.select(x, layout, key)
            sparse = Sparse(x.numel(), indices, x if indices is None else x[indices])
        seeded = self.selector is not None and self.selector.seeded
        return (*write(sparse, self.value, self.kind, coded=self.coded, key=key, seeded=seeded), {})

    def decode(self, payload: Tensor, n: int, layout: Layout | None = None) -> Sparse:
        return read(payload, n, self.kind)


@dataclass(frozen=True)
class LowRankCodec(Codec):
    """Low-rank factors of each matrix (PowerSGD), written as the values of a codec without a selector."""

    spec: str
    body: LowRank
    factors: SparseCodec

    @property
    def warm(self) -> bool:
        return True

    @property
    def by_shape(self) -> bool:
        return True

    def _encode(
        self, x: Tensor, layout: Layout | None, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        layout = need_layout(layout, self.spec)
        flat, memory = self.body.factorise(x, layout, memory, key)
        payload, decoded = self.factors.encode(flat, key=key)
        try:
            expanded = self.body.expand(decoded.values, layout)
        except PayloadError:  # a coarse format can make small factors as large as others of their block
            raise NonFiniteError(
                f"the update is too large for {self.spec}: lower the learning rate, or clip the gradient"
            ) from None
        return payload, Sparse(x.numel(), None, expanded), memory

    def decode(self, payload: Tensor, n: int, layout: Layout | None = None) -> Sparse:
        """See `Codec`; `layout` is needed."""
        layout = need_layout(layout, self.spec)
        decoded = self.factors.decode(payload, self.body.count(layout))
        return Sparse(n, None, self.body.expand(decoded.values, layout))


BUFFERS = SparseCodec("none", None, FP32, kind=Kind.BUFFERS)
"""What carries BatchNorm's statistics: exact, and of another kind, so that no one takes them for an update."""
