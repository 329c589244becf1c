"""A codec inside a mask that sender and receiver both know."""

from dataclasses import dataclass, replace

from torch import Tensor

from ..codec import Codec, Memory
from ..layout import Layout
from ..wire import Sparse
from .inside import MaskedLayout


@dataclass(frozen=True)
class MaskedCodec(Codec):
    """Encodes the coordinates that `inside` holds, as a vector of their own; positions are relative to the mask.

    What lies outside is neither sent nor touched: `Sender` keeps residuals there as they are, and conserves inside.
    """

    codec: Codec
    inside: MaskedLayout

    @property
    def spec(self) -> str:  # type: ignore[override]
        """The specification of the codec inside."""
        return self.codec.spec

    @property
    def lossless(self) -> bool:
        """Whether every held coordinate arrives exactly."""
        return self.codec.lossless

    @property
    def sparse(self) -> bool:
        return self.codec.sparse

    @property
    def warm(self) -> bool:
        return self.codec.warm

    @property
    def density(self) -> float | None:
        """The fraction of the held coordinates that is kept."""
        return self.codec.density

    def with_density(self, density: float) -> Codec:
        return replace(self, codec=self.codec.with_density(density))

    def _encode(
        self, x: Tensor, layout: Layout | None, key: int, memory: Memory
    ) -> tuple[Tensor, Sparse, dict[str, Tensor]]:
        held = self.inside.gather(x)
        payload, decoded, memory = self.codec.encode_warm(held, self.inside.layout, key=key, memory=memory)
        return payload, self.inside.lift(decoded), memory

    def decode(self, payload: Tensor, n: int, layout: Layout | None = None) -> Sparse:
        return self.inside.lift(self.codec.decode(payload, self.inside.layout.total, self.inside.layout))
