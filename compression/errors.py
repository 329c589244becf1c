"""Errors of the compression library."""


class PayloadError(ValueError):
    """Received bytes are not a valid payload for the model at hand; nothing was decoded from them."""


class NonFiniteError(ValueError):
    """An update holds NaN or infinity and cannot be encoded: a codec would spread it over the residual for ever."""
