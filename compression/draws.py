"""Random numbers as a pure function of (key, position): no state, any order, the same bits on every device.

SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") read as a counter generator:
number i of a key is mix64(key + (i + 1) * 0x9E3779B97F4A7C15) modulo 2^64, which is output i of SplitMix64 seeded with
the key. NumPy's uint64 on the CPU; elsewhere torch's int64, whose sums and products wrap to the same bits.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .placement import move, workplace

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_MASK = (1 << 64) - 1
# Both buffers of a CPU chunk stay in the second-level cache; on a GPU the chunk only bounds the memory.
_CPU_CHUNK = 1 << 14
_DEVICE_CHUNK = 1 << 24


def derive_key(*parts: int) -> int:
    """A key in [0, 2^63) from whole numbers (taken modulo 2^64); their order and their number matter."""
    key = 0
    for part in parts:
        key = _mix(((key + _GOLDEN) & _MASK) ^ _mix(part & _MASK))
    return key >> 1


def uniform(key: int, n: int, device: torch.device | str, start: int = 0, out: Tensor | None = None) -> Tensor:
    """Numbers `start` to `start + n - 1` of `key` as fp32 [n] in [0, 1): multiples of 2^-24 (the top 24 bits).

    `out`: contiguous fp32 [n] on `device` to write into; otherwise a new tensor.
    """
    out = torch.empty(n, dtype=torch.float32, device=device) if out is None else out
    if kernels.available(out.device):
        return kernels.uniform(key, n, out.device, start, out)
    on_cpu = out.device.type == "cpu"
    (_uniform_numpy if on_cpu else _uniform_torch)(key, start, out)
    return out


def random_positions(key: int, n: int, k: int, device: torch.device | str) -> Tensor:
    """k ascending positions out of n, int64 [k], 0 <= k <= n < 2^32: one in each stratum [i * n // k, (i + 1) * n // k).

    Each coordinate is drawn with probability 1 / (width of its stratum), which is k / n to within rounding of the width
    to a whole number. No sort, no rejection: O(k).
    """
    if not 0 <= k <= n < 1 << 32:
        raise ValueError(f"cannot draw {k} positions out of {n}: 0 <= k <= n < 2^32 is needed")
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=device)
    whole, rest = divmod(n, k)
    target, device = torch.device(device), workplace(k, torch.device(device))
    stratum = torch.arange(k + 1, device=device)
    # i * n // k without i * n, which could exceed 63 bits; rest < n / 2, so i * rest stays below 2^63.
    edges = stratum * rest
    edges = edges.div_(k, rounding_mode="floor").add_(stratum.mul_(whole))
    width = edges.diff()
    on_cpu = width.device.type == "cpu"
    draw = (_top_bits_numpy if on_cpu else _top_bits_torch)(key, k, width)
    return move(draw.mul_(width).bitwise_right_shift_(31).add_(edges[:-1]), target)


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _FIRST) & _MASK
    z = ((z ^ (z >> 27)) * _SECOND) & _MASK
    return z ^ (z >> 31)


def _chunks_numpy(key: int, start: int, n: int, use: Callable[[int, np.ndarray], None]) -> None:
    """Call `use(offset, numbers)` for uint64 chunks of numbers start to start + n - 1; it may overwrite them."""
    ramp = np.arange(1, min(n, _CPU_CHUNK) + 1, dtype=np.uint64)
    ramp *= np.uint64(_GOLDEN)
    numbers, shifted = np.empty_like(ramp), np.empty_like(ramp)
    for offset in range(0, n, _CPU_CHUNK):
        m = min(_CPU_CHUNK, n - offset)
        z, t = numbers[:m], shifted[:m]
        np.add(ramp[:m], np.uint64((key + (start + offset) * _GOLDEN) & _MASK), out=z)
        for shift, factor in ((30, _FIRST), (27, _SECOND)):
            np.right_shift(z, np.uint64(shift), out=t)
            np.bitwise_xor(z, t, out=z)
            np.multiply(z, np.uint64(factor), out=z)
        np.right_shift(z, np.uint64(31), out=t)
        np.bitwise_xor(z, t, out=z)
        use(offset, z)


def _chunks_torch(key: int, start: int, n: int, device: torch.device, use: Callable[[int, Tensor], None]) -> None:
    """The same in int64, on any device."""
    for offset in range(0, n, _DEVICE_CHUNK):
        m = min(_DEVICE_CHUNK, n - offset)
        z = torch.arange(1, m + 1, device=device).mul_(_signed(_GOLDEN))
        z.add_(_signed(key + (start + offset) * _GOLDEN))
        for shift, factor in ((30, _FIRST), (27, _SECOND)):
            z.bitwise_xor_(_logical_shift(z, shift)).mul_(_signed(factor))
        use(offset, z.bitwise_xor_(_logical_shift(z, 31)))


def _uniform_numpy(key: int, start: int, out: Tensor) -> None:
    target = out.numpy()

    def use(offset: int, z: np.ndarray) -> None:
        part = target[offset : offset + z.size]
        z >>= np.uint64(40)
        # Through int64, which processors convert faster than uint64.
        np.copyto(part, z.view(np.int64), casting="unsafe")
        part *= np.float32(2.0**-24)

    _chunks_numpy(key, start, out.numel(), use)


def _uniform_torch(key: int, start: int, out: Tensor) -> None:
    def use(offset: int, z: Tensor) -> None:
        out[offset : offset + z.numel()].copy_(_logical_shift(z, 40)).mul_(2.0**-24)

    _chunks_torch(key, start, out.numel(), out.device, use)


def _top_bits_numpy(key: int, k: int, like: Tensor) -> Tensor:
    """The top 31 bits of numbers 0 to k - 1, int64 [k]."""
    top = torch.empty_like(like)
    target = top.numpy().view(np.uint64)

    def use(offset: int, z: np.ndarray) -> None:
        np.right_shift(z, np.uint64(33), out=target[offset : offset + z.size])

    _chunks_numpy(key, 0, k, use)
    return top


def _top_bits_torch(key: int, k: int, like: Tensor) -> Tensor:
    top = torch.empty_like(like)

    def use(offset: int, z: Tensor) -> None:
        top[offset : offset + z.numel()] = _logical_shift(z, 33)

    _chunks_torch(key, 0, k, like.device, use)
    return top


def _signed(z: int) -> int:
    """The int64 with the same 64 bits."""
    z &= _MASK
    return z - (1 << 64) if z >> 63 else z


def _logical_shift(z: Tensor, shift: int) -> Tensor:
    """Right shift of int64 that fills up with zeros, as of uint64."""
    return (z >> shift).bitwise_and_((1 << (64 - shift)) - 1)
