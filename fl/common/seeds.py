"""Random numbers as a function of (seed, purpose, key), never of what was drawn before."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def derive_seed(seed: int, purpose: str, *key: int) -> int:
    """A seed in [0, 2^63) for one purpose of a run, e.g. `derive_seed(seed, "order", round, client)`.

    BLAKE2b over the values: distinct arguments give unrelated seeds, the same ones the same seed on every machine.
    """
    text = repr((int(seed), purpose, *(int(part) for part in key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, purpose: str, *key: int) -> "np.random.Generator":
    """A fresh NumPy generator (PCG64) for one purpose of a run."""
    import numpy as np  # here, for what reads options alone

    return np.random.Generator(np.random.PCG64(derive_seed(seed, purpose, *key)))
