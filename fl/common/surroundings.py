"""What holds for a whole process: settings of torch that anybody's code may change, and those that make a run replay."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

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


def on_cpu_by_default() -> contextlib.AbstractContextManager[object]:
    """Within it new tensors are made on the CPU unless a device is given, also after `torch.set_default_device`."""
    # Not where it is the CPU already: each call of torch would take longer.
    return contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


@contextlib.contextmanager
def replaying(device: torch.device) -> Iterator[None]:
    """Within it operations on a GPU give the same bits each time, and PyTorch warns of each that has no such kernel.

    On a CPU nothing changes: there they do at a fixed number of threads.
    """
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads it when it is first used, and so do cuDNN's recurrent layers.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        settings.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=not before[0] or before[1])
    settings.fill_uninitialized_memory = False  # a kernel for each new tensor, and none is read before it is written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = before[2]
