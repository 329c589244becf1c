"""Federated training in which every rank is a client.

`from fl import train` is all a program needs; nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .common.config import Config
    from .run.api import train

__all__ = ["Config", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from .run.api import train

        return train
    if name == "Config":
        from .common.config import Config

        return Config
    raise AttributeError(f"module 'fl' has no attribute '{name}'")
