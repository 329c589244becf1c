"""fp32, fp16 and bf16: the values' own little-endian bytes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PayloadError
from .base import ValueFormat, aligned

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Float(ValueFormat):
    """IEEE 754 binary32 or binary16, or bfloat16, rounded to nearest even.

    What a narrow format cannot reach saturates at its largest value.
    """

    @property
    def exact(self) -> bool:
        """True for fp32 alone."""
        return self.width == 32

    def side_bytes(self, k: int) -> int:
        """None."""
        return 0

    def quantise(self, values: Tensor, key: int = 0) -> tuple[Tensor, Tensor]:
        """See ValueFormat; for fp32 the codes are a view of `values` where those are contiguous."""
        dtype = _DTYPES[self.name]
        if not self.exact:
            limit = torch.finfo(dtype).max
            values = values.to(dtype).clamp_(-limit, limit)  # infinity, where rounding has led beyond it
        # One value, or none, counts as contiguous whatever its stride; a view of other width asks for stride 1.
        codes = values.contiguous().as_strided((values.numel(),), (1,)).view(torch.uint8)
        return torch.empty(0, dtype=torch.uint8, device=values.device), codes

    def restore(self, side: Tensor, codes: Tensor, k: int) -> Tensor:
        """See ValueFormat; for fp32 a view of `codes` where those are contiguous and aligned."""
        if side.numel() or codes.numel() != k * self.width // 8:
            raise PayloadError(f"{side.numel()} bytes of scales and {codes.numel()} of values for {k} values of {self}")
        return aligned(codes, self.width // 8).view(_DTYPES[self.name]).float()


FP32 = Float("fp32", 0, 32)
FP16 = Float("fp16", 1, 16)
BF16 = Float("bf16", 2, 16)
