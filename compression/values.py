"""How precisely the kept values are written down: fp32, fp16 or bf16, little-endian."""

from enum import IntEnum

import torch
from torch import Tensor


class ValueFormat(IntEnum):
    """The value format's code in the payload header."""

    FP32 = 0
    FP16 = 1
    BF16 = 2


_DTYPES = {ValueFormat.FP32: torch.float32, ValueFormat.FP16: torch.float16, ValueFormat.BF16: torch.bfloat16}
VALUE_NAMES = {form.name.lower(): form for form in ValueFormat}


def value_bytes(form: ValueFormat) -> int:
    """Bytes of one value."""
    return _DTYPES[form].itemsize


def encode_values(form: ValueFormat, values: Tensor) -> Tensor:
    """Finite fp32 [k] -> uint8 [k * value_bytes(form)]; what a narrow format cannot reach saturates at its largest value."""
    if form is not ValueFormat.FP32:
        limit = torch.finfo(_DTYPES[form]).max
        values = values.clamp(-limit, limit).to(_DTYPES[form])
    # One value, or none, counts as contiguous whatever its stride; a view of other width asks for stride 1.
    return values.contiguous().as_strided((values.numel(),), (1,)).view(torch.uint8)


def decode_values(form: ValueFormat, data: Tensor) -> Tensor:
    """Uint8 [k * value_bytes(form)] -> fp32 [k] (a view of `data` where it is fp32 and aligned)."""
    dtype = _DTYPES[form]
    if data.storage_offset() % dtype.itemsize or data.stride(0) != 1:
        data = data.clone(memory_format=torch.contiguous_format)
    return data.view(dtype).float()
