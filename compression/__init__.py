"""Compression of updates: codecs, error feedback, and communication hooks for DistributedDataParallel.

Bytes are what the library makes: a codec's payload is one uint8 tensor, and its length is the traffic. Names are imported
when they are first used.
"""

from typing import TYPE_CHECKING

from .lazily import lazily

if TYPE_CHECKING:
    from .codec import Codec
    from .ddp.bucket import FlatBucket
    from .ddp.hooks import CodecHook, codec_hook
    from .errors import NonFiniteError, PayloadError
    from .layout import Layout
    from .make import make_codec
    from .sender import Sender
    from .spec import SpecError
    from .wire import Sparse

__all__ = [
    "Codec",
    "CodecHook",
    "FlatBucket",
    "Layout",
    "NonFiniteError",
    "PayloadError",
    "Sender",
    "Sparse",
    "SpecError",
    "codec_hook",
    "make_codec",
]

__getattr__ = lazily(
    __name__,
    Codec="codec",
    CodecHook="ddp.hooks",
    FlatBucket="ddp.bucket",
    Layout="layout",
    NonFiniteError="errors",
    PayloadError="errors",
    Sender="sender",
    Sparse="wire",
    SpecError="spec",
    codec_hook="ddp.hooks",
    make_codec="make",
)
