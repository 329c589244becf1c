"""Compression of updates: codecs, error feedback, and communication hooks for DistributedDataParallel.

Bytes are what the library makes: a codec's payload is one uint8 tensor, and its length is the traffic. Names are imported
when they are first used.
"""

import os
from typing import TYPE_CHECKING

from .names import find as __getattr__  # noqa: F401

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

# From Python 3.14 on the standard library has a package of this name, whose modules gzip, bz2, lzma and zipfile need.
__path__.append(os.path.join(os.path.dirname(os.__file__), "compression"))
