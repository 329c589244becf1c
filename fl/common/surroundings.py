"""What holds for a whole process, and anybody's code may change by the way."""

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def kept_surroundings() -> Iterator[None]:
    """Torch's default type and device, its threads, whether it keeps gradients, and the working directory: afterwards they
    are as they were."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    threads, gradients, folder = torch.get_num_threads(), torch.is_grad_enabled(), os.getcwd()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        os.chdir(folder)


@contextlib.contextmanager
def usual_surroundings() -> Iterator[None]:
    """Torch as it is when a process begins: fp32 on the CPU, with gradients; afterwards as it was."""
    with kept_surroundings():
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            torch.set_default_device(None)
        torch.set_grad_enabled(True)
        yield
