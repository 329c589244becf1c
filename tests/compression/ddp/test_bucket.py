"""FlatBucket. Oracle: the methods of torch.distributed.GradBucket, and slices of the buffer."""

import pytest
import torch
import torch.distributed as dist

from compression import FlatBucket


def test_has_the_methods_of_gradbucket() -> None:
    """Every public one."""
    assert {name for name in dir(dist.GradBucket) if not name.startswith("_")} <= set(dir(FlatBucket))


def test_answers_like_a_single_bucket() -> None:
    """Gradients are views of the current buffer in the parameters' shapes, also after set_buffer."""
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(()))]
    buffer = torch.arange(7.0)
    bucket = FlatBucket(buffer, parameters)
    assert (bucket.index(), bucket.is_last()) == (0, True)
    assert bucket.buffer() is buffer
    assert all(one is other for one, other in zip(bucket.parameters(), parameters, strict=True))
    assert [tensor.tolist() for tensor in bucket.gradients()] == [[[0, 1, 2], [3, 4, 5]], 6]
    bucket.gradients()[1].zero_()
    assert buffer[6] == 0
    bucket.set_buffer(torch.ones(7))
    assert bucket.gradients()[0].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert bucket.gradients()[1].data_ptr() == bucket.buffer()[6:].data_ptr()


def test_its_lists_are_its_own() -> None:
    """A hook that changes the list it was given does not change the bucket."""
    bucket = FlatBucket(torch.zeros(2), iter([torch.zeros(2)]))  # type: ignore[arg-type]
    bucket.parameters().clear()
    assert len(bucket.parameters()) == 1


def test_a_buffer_of_another_length_is_noticed() -> None:
    """When the gradients are asked for."""
    with pytest.raises(RuntimeError):
        FlatBucket(torch.zeros(3), [torch.zeros(2)]).gradients()
