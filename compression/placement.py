"""Where a message is packed and unpacked: beside its vector or, if that lies on a GPU and the message is short, on the host.

The same code does both, and gives the same bytes. On a GPU it launches up to several hundred kernels, however few the
values: a millisecond or more, in which one core of a CPU packs a hundred thousand.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Values; an estimate from 10 microseconds a kernel on a GPU and 30 nanoseconds a value on a CPU.
_FEW = 1 << 17
HOST = torch.device("cpu")


def workplace(k: int, device: torch.device) -> torch.device:
    """Where to pack or unpack k values that come from, or go to, `device`."""
    return HOST if k <= _FEW else device


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, itself if it is there. The host waits for what comes from a GPU, not for what goes there."""
    # Not pinned: that would be one more copy, and what was to be waited for has been when the host read the message.
    return tensor.to(device, non_blocking=tensor.device.type == "cpu")


def move_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """`move` of vectors that lie on one device by one copy, so that the host waits once.

    An element of each must take a multiple of the bytes of one of the next: positions go before values.
    """
    if all(tensor.device == device for tensor in tensors):
        return list(tensors)
    raw = move(torch.cat([tensor.contiguous().view(torch.uint8) for tensor in tensors]), device)
    parts = raw.split([tensor.nbytes for tensor in tensors])
    return [part.view(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]
