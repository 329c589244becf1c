"""Adding of payloads. Oracle: NumPy in fp32, product and sum each rounded."""

import numpy as np
import pytest
import torch

import compression.kernels as kernels
from tests.compression.kernels.checks.common import DEVICE, awkward


@pytest.mark.parametrize("n", [1, 9, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("weight", [1.0, -0.3, 1e-30, 0.0])
def test_accumulate(n: int, weight: float) -> None:
    """Some, none and all positions; where nothing is added, nothing changes."""
    for x in awkward(n).values():
        start = torch.randn(n, generator=torch.Generator().manual_seed(1))
        for positions in (torch.arange(0, n, 3), torch.arange(0), torch.arange(n)):
            values = x[positions]
            expected = start.numpy().copy()
            with np.errstate(over="ignore"):
                expected[positions.numpy()] += values.numpy() * np.float32(weight)
            out = start.to(DEVICE, copy=True)
            result = kernels.accumulate(out, positions.to(DEVICE), values.to(DEVICE), weight)
            assert result is out
            assert out.cpu().numpy().tobytes() == expected.tobytes()


def test_the_same_as_torch() -> None:
    """index_add_ with alpha gives these bits too (on the CPU)."""
    x = awkward(3000)["normal"]
    positions = torch.arange(5, 3000, 7)
    expected = x.clone().index_add_(0, positions, x[positions] * 3, alpha=1 / 3)
    out = x.to(DEVICE, copy=True)
    kernels.accumulate(out, positions.to(DEVICE), (x[positions] * 3).to(DEVICE), 1 / 3)
    assert torch.equal(out.cpu(), expected)


def test_nothing_is_written_outside() -> None:
    """Positions outside are left out, and a buffer that would have to be copied is refused."""
    whole = torch.zeros(20, device=DEVICE)
    positions = torch.tensor([-1, 0, 9, 10, 1 << 40], device=DEVICE)
    kernels.accumulate(whole[5:15], positions, torch.ones(5, device=DEVICE))
    assert whole.nonzero().squeeze(1).tolist() == [5, 14]
    with pytest.raises(ValueError, match="contiguous"):
        kernels.accumulate(whole[::2], positions, torch.ones(5, device=DEVICE))
