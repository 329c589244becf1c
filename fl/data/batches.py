"""Batches for local training, straight from the samples on the device: no workers, no copies of the data set."""

from collections.abc import Iterator

import torch
from torch import Tensor

from compression.phases import phase
from fl.common.generators import torch_generator
from fl.common.progress import work

from .augment import Augment
from .dataset import Split
from .normalise import Normaliser


def batch_sizes(samples: int, batch_size: int) -> list[int]:
    """The sizes of the batches of one epoch: full ones, and a shorter last one that is kept.

    A single left-over sample joins the batch before it instead, since BatchNorm cannot train on one value a channel,
    which is what one sample has where a network has shrunk it to 1x1.
    """
    full, rest = divmod(samples, batch_size)
    if _joins(samples, batch_size):
        return [batch_size] * (full - 1) + [batch_size + 1]
    return [batch_size] * full + [rest] * (rest > 0)


def _joins(samples: int, batch_size: int) -> bool:
    """Whether a single left-over sample joins the batch before it."""
    return samples % batch_size == 1 and 1 < batch_size < samples


def count_steps(samples: int, batch_size: int, epochs: int | None, steps: int | None) -> int:
    """How many batches are so many passes over the samples, or so many steps; 0 without samples."""
    if (epochs is None) == (steps is None):
        raise ValueError("exactly one of epochs and steps must be given")
    if samples == 0:
        return 0
    return steps if steps is not None else (epochs or 0) * _batches(samples, batch_size)


def count_samples(samples: int, batch_size: int, epochs: int | None, steps: int | None) -> int:
    """How many samples are in all these batches, repetitions counted."""
    passes, rest = divmod(count_steps(samples, batch_size, epochs, steps), max(1, _batches(samples, batch_size)))
    return passes * samples + rest * batch_size  # the last batch alone is of another size, and ends a pass


def _batches(samples: int, batch_size: int) -> int:
    """`len(batch_sizes(...))`, without a list that is as long as a client's claim."""
    return -(-samples // batch_size) - _joins(samples, batch_size)


def iterate_batches(
    split: Split,
    indices: Tensor,
    *,
    batch_size: int,
    steps: int,
    seed: int,
    augment: Augment,
    normalise: Normaliser,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the samples at `indices` (int64 [M]) of `split`, where it lies: x float32 [B, ...] and y [B] as it is.

    `steps`: how many (`count_steps`), passing over the samples as often as that takes. Every pass is in a fresh order, and
    uses every sample once; the last one may be cut off.
    A short last batch is kept, but a single left-over sample joins the batch before it (see `batch_sizes`).

    Order and augmentation are functions of `seed` alone; give every client and round a seed of its own. No global
    random state is used. Images are gathered and augmented in uint8.
    """
    left = steps if len(indices) else 0
    indices = indices.cpu()
    sizes = batch_sizes(len(indices), batch_size)
    order, offsets = torch_generator(seed, "order"), torch_generator(seed, "augment")
    while left > 0:
        shuffled = indices[torch.randperm(len(indices), generator=order, device="cpu")]
        shuffled = shuffled.to(split.x.device, non_blocking=True)
        for chosen in shuffled.split(sizes)[:left]:
            with phase("data"):
                x = augment(split.x.index_select(0, chosen), offsets)
                batch = normalise(x, memory_format), split.y.index_select(0, chosen)
            work.steps += 1
            yield batch
        left -= len(sizes)
