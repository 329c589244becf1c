"""Which arithmetic and which memory layout train fastest on a device."""

import platform
from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> Precision:
    """`--precision` with `auto` decided: bf16 where `device` computes it natively, else fp32.

    A CPU that only emulates bf16 would train slower with it, so there the processor's own instructions count.
    """
    if precision != "auto":
        return cast(Precision, precision)
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bf16()
    return "bf16" if native else "fp32"


def autocast_dtype(precision: Precision) -> torch.dtype:
    """The type that autocast computes in; float32 means that autocast is off."""
    return _DTYPES[precision]


def memory_format_for(device: torch.device, precision: Precision, model: nn.Module) -> torch.memory_format:
    """The layout of images [batch, channels, height, width] and convolution weights.

    Channels-last goes with 16-bit arithmetic only: on a CPU with AVX512-BF16, ResNet-18 trained 95 images/s in fp32 and
    192 in bf16 with channels-last (2 threads); small networks lose a third of their speed in bf16 without it. With
    GroupNorm it was 122 in channels-last and 196 without, so a CPU does without (`make bench-train`).
    """
    if device.type == "cpu" and any(isinstance(module, nn.GroupNorm) for module in model.modules()):
        return torch.contiguous_format
    half = precision != "fp32" and (device.type == "cuda" or precision == "bf16")
    return torch.channels_last if half else torch.contiguous_format


def lay_out(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Give parameters and buffers of the rank of images this layout. Others keep theirs, unless it has holes.

    Fused optimizers walk through memory, and would take what lies in the holes for weights.
    """

    def laid_out(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4:
            return tensor.contiguous(memory_format=memory_format)
        return tensor if is_dense(tensor) else tensor.contiguous()

    model._apply(laid_out)  # as Module.to does, which would take volumes, of rank 5, for images


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements of `tensor` fill a piece of memory, in any order, each on its own."""
    return bool(torch.ops.aten.is_non_overlapping_and_dense(tensor))


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16, AMX, or Arm's bf16), as far as torch can tell."""
    # mkldnn says yes to every AVX-512 processor, also to those that emulate bf16, so on x86 it is not asked.
    x86: list[Callable[[], bool]] = [
        probe
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if (probe := getattr(torch.cpu, name, None)) is not None
    ]
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine().lower() in ("x86_64", "amd64") and x86:
        return any(probe() for probe in x86)
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return False
