"""SEEDED: no positions, only the key from which both sides draw them (`draws.random_positions`): 8 bytes.

By hand: key 258 is 02 01 00 00 00 00 00 00.
"""

import torch
from torch import Tensor

from ..draws import random_positions
from .mixed import refuse

KEY_BYTES = 8


def encode(key: int, device: torch.device | str = "cpu") -> Tensor:
    """A key in [0, 2^63) -> uint8 [8], little-endian."""
    return torch.tensor(list(key.to_bytes(KEY_BYTES, "little")), dtype=torch.uint8, device=device)


def decode(data: Tensor, n: int, k: int) -> Tensor:
    """Uint8 [8] -> the ascending positions, int64 [k], that its key draws; PayloadError if `data` is no key."""
    refuse(data.numel() != KEY_BYTES, f"the key of seeded positions has {data.numel()} bytes, not {KEY_BYTES}")
    key = int.from_bytes(data.cpu().numpy().tobytes(), "little")
    refuse(key >> 63 != 0, "the key of seeded positions is not below 2^63")
    return random_positions(key, n, k, data.device)
