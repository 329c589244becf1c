"""What the checks share: the device, sizes around the blocks' edges, and awkward vectors."""

import os

import torch
from hypothesis import settings
from torch import Tensor

import compression.kernels as kernels

DEVICE = torch.device(os.environ.get("KERNELS_DEVICE", "cpu"))
FEW = settings(deadline=None, derandomize=True, max_examples=15)
SIZES = (0, 1, 7, 8, 9, 1023, 1024, 1025, 2047, 2048, 2049, 4097)

assert kernels.available(DEVICE), f"no kernels on {DEVICE}: a check would compare the torch code with itself"


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
