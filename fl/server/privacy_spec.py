"""The option `--dp`.

none
clip:C,noise=Z,delta=D[,adaptive=Q]
"""

import importlib.util
from dataclasses import dataclass

from compression.spec import SpecError, nearest, parse_stage
from fl.common.config import Config
from fl.common.errors import ConfigError

_EXAMPLE = "clip:1,noise=0.8,delta=1e-5"
_KEYS = ("noise", "delta", "adaptive")


@dataclass(frozen=True)
class PrivacySpec:
    """`--dp`, read. `clip`: the norm that updates are clipped to, or with a `quantile` the first such norm; `noise`: Z, the
    noise of one round as a multiple of it; `delta`: that of the guarantee."""

    clip: float
    noise: float
    delta: float
    quantile: float | None


def parse_dp(text: str) -> PrivacySpec | None:
    """Read `--dp`; None for `none`. SpecError for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name == "none":
        stage.expect(0)
        return None
    if stage.name != "clip":
        raise SpecError(f"'{text}': there is no '{stage.name}'{nearest(stage.name, ('none', 'clip'))}")
    stage.expect(1, _KEYS, example=_EXAMPLE)
    for key in ("noise", "delta"):
        if key not in stage.options:
            raise SpecError(f"'{text}': {key} is missing, as in {_EXAMPLE}")
    return PrivacySpec(
        clip=stage.number(0, 1e-12, 1e12, "C"),
        noise=stage.option("noise", 0.1, 1000),
        delta=stage.option("delta", 1e-15, 0.5),
        quantile=stage.option("adaptive", 0.01, 0.99) if "adaptive" in stage.options else None,
    )


def check_accountant(config: Config) -> None:
    """ConfigError if `--dp` asks for an epsilon, and the package that knows it is not installed."""
    if parse_dp(config.dp) is not None and importlib.util.find_spec("dp_accounting") is None:
        raise ConfigError(f"--dp {config.dp} needs the package dp-accounting: pip install 'leanfed[privacy]'")
