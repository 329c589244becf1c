"""Federated training in which every rank is a client.

`from fl import train` is all a program needs; nothing heavy is imported before it is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import train
    from .config import Config

__all__ = ["Config", "train"]


def __getattr__(name: str) -> Any:
    if name == "train":
        from .api import train

        return train
    if name == "Config":
        from .config import Config

        return Config
    raise AttributeError(f"module 'fl' has no attribute '{name}'")
