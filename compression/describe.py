"""What a codec costs and saves on one vector."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .codec import LowRankCodec, SparseCodec
from .layout import Layout
from .make import make_codec
from .wire import dense_bytes, read_header

_REPEATS = 5


@dataclass(frozen=True)
class Description:
    """Bytes of one message and seconds on this machine.

    `coordinates`: of the vector. `values_sent`: as the payload's header has it, factors for powersgd; None for a plug-in,
    whose payload may have no header.
    """

    spec: str
    coordinates: int
    values_sent: int | None
    payload_bytes: int
    dense_bytes: int
    encode_s: float
    decode_s: float

    @property
    def ratio(self) -> float:
        """Dense bytes over payload bytes."""
        return self.dense_bytes / self.payload_bytes

    @property
    def bits_per_coordinate(self) -> float:
        """Payload bits over all coordinates."""
        return 8 * self.payload_bytes / max(1, self.coordinates)

    @property
    def bits_per_value(self) -> float | None:
        """Payload bits over the values sent; None if these are not known."""
        return None if self.values_sent is None else 8 * self.payload_bytes / max(1, self.values_sent)

    @property
    def break_even_bits_per_s(self) -> float | None:
        """The bandwidth above which a dense message arrives sooner; None if the payload is no smaller.

        Encoding and decoding take as long as sending the bytes that they save.
        """
        saved = self.dense_bytes - self.payload_bytes
        return 8 * saved / (self.encode_s + self.decode_s) if saved > 0 else None

    def seconds(self, bits_per_s: float) -> tuple[float, float]:
        """Seconds of one message over a link: dense, and encoded, sent and decoded."""
        coded = 8 * self.payload_bytes / bits_per_s + self.encode_s + self.decode_s
        return 8 * self.dense_bytes / bits_per_s, coded


def describe(spec: str, layout: Layout, x: Tensor) -> Description:
    """Encode and decode `x`, fp32 [layout.total], and measure; SpecError for a wrong specification."""
    codec, out = make_codec(spec), x.clone()
    payload, _ = codec.encode(x, layout)
    return Description(
        spec=spec,
        coordinates=x.numel(),
        values_sent=read_header(payload).k if isinstance(codec, SparseCodec | LowRankCodec) else None,
        payload_bytes=payload.numel(),
        dense_bytes=dense_bytes(x.numel()),
        encode_s=_median_s(lambda: codec.encode(x, layout)),
        decode_s=_median_s(lambda: codec.decode(payload, x.numel(), layout).add_to(out)),
    )


def _median_s(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
