"""The option `--uplink-warmup`: where the kept fraction begins, and whether a codec has one that can fall."""

from typing import TYPE_CHECKING

from compression.grammar import CodecSpec
from compression.spec import SpecError

if TYPE_CHECKING:
    from compression import Codec

FIRST = 0.25


def check_warmup(rounds: int, uplink: "CodecSpec | Codec") -> None:
    """SpecError if `uplink` keeps no fraction that could fall over so many rounds."""
    density = uplink.density
    if rounds and (density is None or not 0 < density < FIRST):
        raise SpecError(
            f"{rounds}: warm-up falls from a kept fraction of {FIRST:g} to that of the uplink, and '{uplink.spec}' has no "
            f"kept fraction between 0 and {FIRST:g}; topk:0.01 has"
        )
