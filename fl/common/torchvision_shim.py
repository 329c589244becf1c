"""Importing torchvision beside a torch for which it was not compiled.

A torchvision wheel built for CUDA cannot load its compiled operators beside a CPU-only torch, and then `import
torchvision` fails, because it describes two operators that do not exist. Data sets, transforms and models need
neither, so a bare schema for the two is enough.
"""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

from .errors import ConfigError

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list[torch.library.Library] = []  # a Library takes its definitions with it when it is collected


def import_torchvision() -> ModuleType:
    """The torchvision module, whose `datasets` and `models` work; its operators only if they were compiled for this
    torch. ConfigError if it is not installed."""
    if not prepare_torchvision():
        raise ConfigError("torchvision is not installed; install the version that belongs to this torch")
    return importlib.import_module("torchvision")


def prepare_torchvision() -> bool:
    """Whether torchvision is installed; if so, whoever imports it from now on gets that module. It is not imported here."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None:
        return False
    if not hasattr(torch.ops.torchvision, "nms") and not _load_compiled(spec.submodule_search_locations or []):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS.values():
            library.define(schema)
        _kept.append(library)
    return True


def _load_compiled(folders: list[str]) -> bool:
    """Load torchvision's own operators, as its import would; whether that worked."""
    for folder in folders:
        for path in sorted([*Path(folder).glob("_C*.so"), *Path(folder).glob("_C*.pyd")]):
            try:
                torch.ops.load_library(str(path))
            except (OSError, RuntimeError):
                continue
            return hasattr(torch.ops.torchvision, "nms")
    return False
