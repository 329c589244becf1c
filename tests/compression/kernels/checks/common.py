"""What the checks share: the device, sizes around the blocks' edges, and awkward vectors."""

import functools
import inspect
import os
from typing import Any

import torch
from hypothesis import settings
from torch import Tensor
from triton.runtime import interpreter

import compression.kernels as kernels

DEVICE = torch.device(os.environ.get("KERNELS_DEVICE", "cpu"))
FEW = settings(deadline=None, derandomize=True, max_examples=15)
SIZES = (0, 1, 7, 8, 9, 1023, 1024, 1025, 2047, 2048, 2049, 4097)

assert kernels.available(DEVICE), f"no kernels on {DEVICE}: a check would compare the torch code with itself"


@functools.cache
def _builtins(package: Any) -> list[str]:
    return [name for name, member in inspect.getmembers(package) if interpreter.tl.core.is_builtin(member)]


def _patch_builtin(package: Any, builder: Any, scope: Any) -> None:
    """As in Triton's interpreter, which looks through all names of its language at each launch, and at each call of a
    function in a kernel: half of its time."""
    for name in _builtins(package):
        member = getattr(package, name)
        if interpreter.tl.core.is_builtin(member):
            interpreter._patch_attr(package, name, member, builder, scope)


if os.environ.get("TRITON_INTERPRET") == "1":
    interpreter._patch_builtin = _patch_builtin


def awkward(n: int, seed: int = 0) -> dict[str, Tensor]:
    """Vectors fp32 [n] by name: ordinary, many ties, all equal, zeros of both signs, denormals, the largest."""
    generator = torch.Generator().manual_seed(seed + n)
    normal = torch.randn(n, generator=generator)
    pick = torch.randint(0, 8, (n,), generator=generator)
    tiny = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 3e-45, 1e-40, -1.17549435e-38, 1.1754942e-38])
    largest = torch.finfo(torch.float32).max
    wide = torch.tensor([largest, -largest, 1.0, -1.0, 0.0, 1e-45, 65504.0, -1e30])
    return {
        "normal": normal,
        "ties": (normal * 2).round(),
        "equal": torch.full((n,), -1.5),
        "zero": torch.where(pick < 4, 0.0, -0.0),
        "denormal": tiny[pick],
        "wide": wide[pick],
        "mostly zero": torch.where(pick == 0, normal, 0.0),
    }
