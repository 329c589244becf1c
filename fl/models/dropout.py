"""Dropout that is fast on a CPU."""

import torch
from torch import Tensor, nn

_LEVELS = 256


class ByteDropout(nn.Dropout):
    """`nn.Dropout`; on a CPU a byte decides on each number, eight bytes from one draw, where PyTorch draws for each, one
    after another. `p` must be a multiple of 1/256, so that it is met exactly."""

    def __init__(self, p: float) -> None:
        """ValueError for another `p`."""
        super().__init__(p)
        if not (0 <= p < 1 and p * _LEVELS == int(p * _LEVELS)):
            raise ValueError(f"p = {p:g} is no multiple of 1/{_LEVELS} below 1")

    def forward(self, x: Tensor) -> Tensor:
        """Of floating-point numbers of any shape."""
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(1 << 63), None)
        kept = draws.view(torch.uint8)[: x.numel()] >= int(self.p * _LEVELS)
        # In the order in which the numbers lie, so that the product has it too.
        mask = torch.empty_like(x)
        mask.as_strided(kept.shape, (1,)).copy_(kept)
        return x * mask.mul_(1 / (1 - self.p))
