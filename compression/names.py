"""What the package offers by its own name, and the modules inside that have it."""

from .lazily import lazily

find = lazily(
    "compression",
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
"""The package's `__getattr__`."""
