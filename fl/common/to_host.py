"""Tensors from a GPU to the host."""

from collections.abc import Mapping

import torch
from torch import Tensor


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
