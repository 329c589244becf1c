"""Networks by name. Imports `common` alone; `build_model` is imported when it is first used."""

from typing import TYPE_CHECKING

from compression.lazily import lazily

from .names import MODELS, RESNETS, check_model, context_of, is_own

if TYPE_CHECKING:
    from .build import build_model

__all__ = ["MODELS", "RESNETS", "build_model", "check_model", "context_of", "is_own"]

__getattr__ = lazily(__name__, build_model="build")
