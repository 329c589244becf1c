"""Packages whose names are imported when they are first used (PEP 562): what only reads options does without torch."""

import importlib
from collections.abc import Callable
from typing import Any


def lazily(package: str, **modules: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package: its names, and the modules inside it that have them."""

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return find
