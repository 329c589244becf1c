"""The double itself. Oracle: what PyTorch's documentation and sources say of a GPU."""

import numpy as np
import pytest
import torch

from tests.cuda_double.recorder import recorder


def test_two_devices_do_not_mix() -> None:
    """Except numbers without dimensions, copies, and indices, which may lie on the CPU."""
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    for mixed in (lambda: here + there, lambda: torch.cat((here, there)), lambda: there.index_select(0, here.long())):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    with pytest.raises(RuntimeError, match="indices should be"):
        here[there.long()]
    assert (there * torch.tensor(2.0))[torch.tensor([0, 1])].tolist() == [2.0, 2.0]
    assert here.copy_(there).tolist() == [1.0] * 3


def test_what_needs_the_cpu_is_refused() -> None:
    """Tensors for NumPy, and random numbers from a generator of the CPU."""
    there = torch.ones(3, device="cuda")
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(TypeError, match="numpy"):
        np.asarray(there)
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())


def test_a_generator_of_its_own() -> None:
    """What the GPU draws changes nothing on the CPU, and the other way round."""
    torch.manual_seed(1)
    first = torch.rand(3, device="cuda")
    torch.manual_seed(1)
    alone = torch.rand(3)
    torch.manual_seed(1)
    torch.rand(5, device="cuda")
    assert torch.equal(torch.rand(3), alone)
    torch.manual_seed(1)
    torch.rand(5)
    assert torch.equal(torch.rand(3, device="cuda"), first)


@pytest.mark.parametrize(
    ("waits", "work"),
    [
        (0, lambda x, i: x.add(1).index_fill_(0, i, 2.0)),
        (0, lambda x, i: x.masked_fill_(x > 0, 1.0)),
        (0, lambda x, i: torch.ones(3).to("cuda", non_blocking=True)),
        (1, lambda x, i: x.sum().item()),
        (1, lambda x, i: x.cpu()),
        (1, lambda x, i: torch.ones(3).cuda()),
        (1, lambda x, i: x.nonzero()),
        (1, lambda x, i: x[x > 0]),
        (1, lambda x, i: x.__setitem__(i, 2.0)),
        (1, lambda x, i: bool((x > 0).all())),
        (2, lambda x, i: torch.bincount(i)),
    ],
)
def test_waits(waits: int, work) -> None:
    """Of the host, by operation."""
    x, i = torch.ones(3, device="cuda"), torch.arange(2, device="cuda")
    with recorder.region("test of waits") as seen:
        before = seen.waits.total()
        work(x, i)
    assert seen.waits.total() - before == waits
