"""Torch's generators, and the global ones, set by `seeds`.

The program's own draws come from generators of their own. Anybody's code (models, data functions) may draw from the global
ones too: `seeded` sets those around it, so the order in which clients happen to run cannot change a result.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from .seeds import derive_seed


def torch_generator(seed: int, purpose: str, *key: int) -> torch.Generator:
    """A fresh CPU torch generator for one purpose of a run."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *key))


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """The global generators of torch (of a GPU in use too), NumPy and Python: afterwards they are as they were."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=_gpu()):
        try:
            yield
        finally:
            np.random.set_state(legacy)
            random.setstate(python)


@contextlib.contextmanager
def seeded(seed: int, purpose: str, *key: int) -> Iterator[None]:
    """The same, set for one purpose of a run. A generator that code makes for itself, as `np.random.default_rng()` does, is
    its own affair."""
    value = derive_seed(seed, purpose, *key)
    with kept_generators():
        # Not torch.manual_seed, which would seed GPUs that are not put back.
        torch.random.default_generator.manual_seed(value)
        if _gpu():
            torch.cuda.manual_seed(value)
        np.random.seed(value % 2**32)
        random.seed(value)
        yield


def _gpu() -> list[int]:
    return [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
