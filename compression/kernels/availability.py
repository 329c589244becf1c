"""Whether kernels can run on a device: decided once per device, by running one."""

import functools
import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_off = False


def available(device: torch.device | str) -> bool:
    """Whether the kernels run on `device`: a CUDA device where Triton works, or any device under Triton's interpreter.

    The interpreter (TRITON_INTERPRET=1 in the environment before Triton is imported) is for tests: it is slow.
    """
    if _off:
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":
        return _installed()
    device = torch.device(device)
    if device.type != "cuda":
        return False
    return _works(torch.cuda.current_device() if device.index is None else device.index)


@contextmanager
def switched_off() -> Iterator[None]:
    """Within it no kernel is used, in any thread: to measure what kernels gain, or to rule one out."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _works(index: int) -> bool:
    """A trial: Triton may be there and yet find no C compiler, no writable cache or too old a GPU."""
    if not _installed():
        return False
    try:
        from .packing import pack_bits, pack_fixed

        device = torch.device("cuda", index)
        # Of one value, too: Triton compiles a whole number that is 1 into the kernel.
        bits, one = torch.ones(3, dtype=torch.bool, device=device), torch.ones(1, dtype=torch.int64, device=device)
        return pack_bits(bits).tolist() == [7] and pack_fixed(one, 3).tolist() == [1]
    except Exception as error:
        warnings.warn(f"Triton does not work on cuda:{index}, so torch is used, slower: {error}", stacklevel=4)
        return False
