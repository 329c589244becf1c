"""The link of each client: the option `--link`, which is also all that `--profiles` is.

MBIT            the same speed up and down, in Mbit/s
UP/DOWN         Mbit/s to and from the server; behind it or MBIT may stand `,latency=MILLISECONDS`, of each transfer
anything else   as `--profiles`: a name such as poor_3g, a mix, or FILE.csv
"""

import dataclasses
import re

from compression.spec import SpecError
from fl.clock.links import transfer_s
from fl.clock.profiles import Profile, parse_profiles, profiles
from fl.common.config import Config
from fl.common.errors import ConfigError

_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_SPEED = re.compile(rf"({_NUMBER})(?:/({_NUMBER}))?(?:,latency=({_NUMBER}))?")
_MOST_MBIT, _MOST_MS = 1e9, 1e6


def read_link(text: str | None, config: Config) -> tuple[Config, Profile | None]:
    """`config` with the clients' links as its `profiles`, or as they are and the one link that all have.

    `text` None: the run's own profiles. ConfigError for no link at all, or one that cannot be.
    """
    if text is None:
        if config.profiles == "none":
            raise ConfigError("--link is missing: a name such as poor_3g, Mbit/s as in 10 or 2/20, or as --profiles")
        return config, None
    speed = _SPEED.fullmatch(text)
    if speed is None:
        try:
            if parse_profiles(text).name == "none" and not text.strip().endswith(".csv"):
                raise SpecError("'none' is no link")
        except SpecError as error:
            raise ConfigError(f"--link {error}; or give Mbit/s, as in 10, 2/20 or 2/20,latency=50") from None
        return dataclasses.replace(config, profiles=text), None
    up, down, latency = float(speed[1]), float(speed[2] or speed[1]), float(speed[3] or 0)
    if not (0 < up <= _MOST_MBIT and 0 < down <= _MOST_MBIT and latency <= _MOST_MS):
        raise ConfigError(
            f"--link {text} must have Mbit/s above 0 and at most {_MOST_MBIT:g}, and a latency of at most {_MOST_MS:g} ms"
        )
    return config, Profile(1.0, up * 1e6 / 8, down * 1e6 / 8, latency / 1e3, 0.0, 0.0)


def links_of(one: Profile | None, config: Config) -> tuple[Profile, ...]:
    """The links of all clients of a resolved configuration, slowed down to what the server has for each of a round."""
    assert config.clients is not None
    found = profiles(config.profiles, config.clients, config.seed) if one is None else (one,)
    share = config.clients_per_round or config.clients
    up, down = ((limit or float("inf")) / share for limit in (config.server_up_limit, config.server_down_limit))
    return tuple(
        dataclasses.replace(each, up_bytes=min(each.up_bytes, up), down_bytes=min(each.down_bytes, down))
        for each in found
    )


def slowest_s(links: tuple[Profile, ...], up_bytes: int, down_bytes: int) -> float:
    """Seconds of both transfers of the client that takes longest, without jitter."""
    return max(
        transfer_s(up_bytes, each.up_bytes, each, 1.0) + transfer_s(down_bytes, each.down_bytes, each, 1.0)
        for each in links
    )
