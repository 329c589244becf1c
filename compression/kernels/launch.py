"""What every launch of a kernel needs."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# Options of every launch. No fused multiply-add: each operation is rounded by itself, as in torch, so that results are
# equal bit for bit.
EXACT: dict[str, Any] = {"enable_fp_fusion": False}


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: make that the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def blocks(n: int, block: int) -> int:
    """Number of blocks that n elements need."""
    return -(-n // block)
