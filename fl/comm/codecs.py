"""The uplink codec of a round: the kept fraction may fall over the first rounds."""

from compression import Codec, SpecError, make_codec

_FIRST = 0.25


class Uplink:
    """The codec of `spec`; with `warmup` rounds its kept fraction falls from a quarter to its own, by equal factors.

    Ratio warm-up of Lin et al. 2018, section 3.3, where it takes four epochs. SpecError where there is nothing to fall.
    """

    def __init__(self, spec: str, warmup: int = 0) -> None:
        self.codec = make_codec(spec)
        self.warmup = warmup
        density = self.codec.density
        if warmup and (density is None or not 0 < density < _FIRST):
            raise SpecError(
                f"{warmup}: warm-up falls from a kept fraction of {_FIRST:g} to that of the uplink, and '{spec}' has no "
                f"kept fraction between 0 and {_FIRST:g}; topk:0.01 has"
            )

    def at(self, round_: int) -> Codec:
        """The codec of a round."""
        density = self.codec.density
        if round_ >= self.warmup or density is None:
            return self.codec
        return self.codec.with_density(_FIRST * (density / _FIRST) ** (round_ / self.warmup))
