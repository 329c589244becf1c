"""Federated training in which every rank is a client.

`from fl import train, Config, ConfigError, DataError` is all a program needs; nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .common.config import Config
    from .common.errors import ConfigError, DataError
    from .run.api import train

__all__ = ["Config", "ConfigError", "DataError", "train"]

_WHERE = {
    "Config": "fl.common.config",
    "ConfigError": "fl.common.errors",
    "DataError": "fl.common.errors",
    "train": "fl.run.api",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'fl' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)
