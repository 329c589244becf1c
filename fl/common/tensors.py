"""Tensors: what the shape of a sample says (channels, size, and where the colours are), and the way to the host."""

from collections.abc import Mapping

import torch
from torch import Tensor


def channels_of(sample_shape: tuple[int, ...]) -> int:
    """Channels of samples [C, H, W]; features of samples [T, F] or [F]."""
    return sample_shape[0] if len(sample_shape) == 3 else sample_shape[-1]


def size_of(sample_shape: tuple[int, ...]) -> int:
    """Height of samples [C, H, W], steps of samples [T, F], 1 for samples [F]."""
    return sample_shape[1] if len(sample_shape) == 3 else sample_shape[0] if len(sample_shape) == 2 else 1


def colours_last(sample_shape: tuple[int, ...]) -> bool:
    """Whether samples [C, H, W] of this shape are likely to be [H, W, C]: the last size is a number of colours, the first
    is none. A last size of 1 may also be that of a signal of many channels, so then both sides must be alike."""
    first, second, last = sample_shape
    return min(first, second) > 4 and (last in (3, 4) or (last == 1 and first == second))


def to_host(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, in their order: themselves if they are there, else contiguous copies.

    All of one type travel together, since the host waits for each copy. The copies of one type share their memory.
    """
    found = {name: tensor.detach() for name, tensor in named.items()}
    for dtype in dict.fromkeys(tensor.dtype for tensor in found.values()):
        away = {name: t for name, t in found.items() if t.dtype == dtype and t.device.type != "cpu"}
        if away:
            flat = torch.cat([tensor.reshape(-1) for tensor in away.values()]).cpu()
            parts = flat.split([tensor.numel() for tensor in away.values()])
            found.update((name, part.view(away[name].shape)) for name, part in zip(away, parts, strict=True))
    return found
