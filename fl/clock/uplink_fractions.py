"""The option `--uplink-shares`: clients with slower links send fewer of the uplink's coordinates.

none               all send the same
equal_time:FLOOR   uploads of as many bytes as each client's link carries in the time of the fastest link, by --profiles
online:FLOOR       the same without knowing them, from the virtual times of the uploads so far

No client sends less than FLOOR of what --uplink says.
"""

from compression import make_codec
from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.common.config import Config
from fl.common.errors import ConfigError

from .adaptive import OnlineShares, Shares
from .equal_time import equal_uploads
from .profiles import profiles

_KNOWN = ("none", "equal_time", "online")


def parse_uplink_shares(text: str) -> Stage:
    """Read `--uplink-shares`; SpecError for what cannot be meant."""
    stage = parse_stage(text)
    if stage.name not in _KNOWN:
        raise SpecError(f"'{text}': shares are none, equal_time:FLOOR or online:FLOOR{nearest(stage.name, _KNOWN)}")
    stage.expect(0 if stage.name == "none" else 1)
    if stage.args:
        stage.number(0, 0.01, 1, "FLOOR")
    return stage


def check_uplink_shares(config: Config) -> None:
    """ConfigError where there is nothing to share out, or nothing to go by."""
    if config.uplink_shares == "none":
        return
    option = f"--uplink-shares {config.uplink_shares}"
    if config.profiles == "none":
        raise ConfigError(f"{option} goes by how fast clients send: --profiles must not be none")
    if make_codec(config.uplink).density is None:
        raise ConfigError(
            f"{option} needs an uplink with a kept fraction, such as topk:0.01, not --uplink {config.uplink}"
        )
    if config.exchange != "server" or config.mode == "step":
        raise ConfigError(f"{option} needs --exchange server, where each client's payload has a size of its own")


def uplink_shares(config: Config) -> Shares | None:
    """What the options of a run give each client; None for all of it."""
    stage = parse_uplink_shares(config.uplink_shares)
    if stage.name == "none":
        return None
    assert config.clients is not None
    floor = float(stage.args[0])
    if stage.name == "online":
        return OnlineShares(config.clients, floor=floor, power=1)
    return Shares(equal_uploads(profiles(config.profiles, config.clients, config.seed), floor=floor))
