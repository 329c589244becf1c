"""Federated training in which every rank is a client.

`from fl import train, Config, ConfigError, DataError` is all a program needs; nothing heavy is imported before it is used.
"""

import os
from typing import TYPE_CHECKING

import compression

_OURS = os.path.join(os.path.dirname(os.path.dirname(__file__)), "compression")
# From Python 3.14 on the standard library has a package of this name; where it came first, ours is added to it.
if _OURS not in compression.__path__:
    compression.__path__.append(_OURS)
    from compression.names import find

    compression.__getattr__ = find

from compression.lazily import lazily  # noqa: E402 - found there

if TYPE_CHECKING:
    from .common.config import Config
    from .common.errors import ConfigError, DataError
    from .run.api import train

__all__ = ["Config", "ConfigError", "DataError", "train"]

__getattr__ = lazily(
    __name__, Config="common.config", ConfigError="common.errors", DataError="common.errors", train="run.api"
)
