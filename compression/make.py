"""Codecs by specification."""

from .codec import Codec, LowRankCodec, SparseCodec
from .dct import DctCodec
from .grammar import CodecSpec, read_codec
from .lowrank import LowRank
from .select import make_selector
from .values import make_value
from .wire import Kind


def make_codec(spec: str) -> Codec:
    """The codec that a specification names (`grammar`); SpecError, with what would be right, if there is none.

    `package.module:function` is a plug-in: `function(spec)` returns a `Codec` whose `spec` is that text.
    """
    read = read_codec(spec)
    if not isinstance(read, CodecSpec):
        return read
    value = make_value(read.value)
    if read.rank is not None:
        return LowRankCodec(spec, LowRank(read.rank), SparseCodec(spec, None, value, read.coded, Kind.FACTORS))
    selector = make_selector(read.selector) if read.selector else None
    if read.block:
        return DctCodec(spec, read.block, SparseCodec(spec, selector, value, read.coded, Kind.COSINES))
    return SparseCodec(spec, selector, value, read.coded)
