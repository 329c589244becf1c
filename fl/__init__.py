"""Federated training in which every rank is a client.

`from fl import train, Config, ConfigError, DataError` is all a program needs; nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING

from compression.lazily import lazily

if TYPE_CHECKING:
    from .common.config import Config
    from .common.errors import ConfigError, DataError
    from .run.api import train

__all__ = ["Config", "ConfigError", "DataError", "train"]

__getattr__ = lazily(
    __name__, Config="common.config", ConfigError="common.errors", DataError="common.errors", train="run.api"
)
