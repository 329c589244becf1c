"""What PyTorch must be told for a run to replay, whatever the program around it has told it."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch


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
