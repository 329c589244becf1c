"""Batches for local training, straight from the samples on the device: no workers, no copies of the data set."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fl.common.seeds import torch_generator

from .augment import Augment
from .dataset import Split
from .normalise import Normaliser


def batch_sizes(samples: int, batch_size: int) -> list[int]:
    """The sizes of the batches of one epoch: full ones, and a shorter last one that is kept.

    A single left-over sample joins the batch before it instead, since BatchNorm cannot train on one value a channel,
    which is what one sample has where a network has shrunk it to 1x1.
    """
    full, rest = divmod(samples, batch_size)
    sizes = [batch_size] * full
    if rest == 1 and full and batch_size > 1:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


def count_steps(samples: int, batch_size: int, epochs: int | None, steps: int | None) -> int:
    """How many batches `iterate_batches` gives for the same arguments; 0 without samples."""
    if (epochs is None) == (steps is None):
        raise ValueError("exactly one of epochs and steps must be given")
    if samples == 0:
        return 0
    return steps if steps is not None else (epochs or 0) * len(batch_sizes(samples, batch_size))


def count_samples(samples: int, batch_size: int, epochs: int | None, steps: int | None) -> int:
    """How many samples are in all the batches that `iterate_batches` gives for the same arguments, repetitions counted."""
    sizes = batch_sizes(samples, batch_size)
    passes, rest = divmod(count_steps(samples, batch_size, epochs, steps), max(1, len(sizes)))
    return passes * samples + sum(sizes[:rest])


def iterate_batches(
    split: Split,
    indices: Tensor,
    *,
    batch_size: int,
    epochs: int | None = None,
    steps: int | None = None,
    seed: int,
    augment: Augment,
    normalise: Normaliser,
    device: torch.device | str,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the samples at `indices` (int64 [M]) of `split`: x float32 [B, ...] and y [B] as it is, on `device`.

    Give `epochs` for so many passes over the samples, or `steps` for so many batches, passing over them as often as
    that takes. Every pass is in a fresh order, and uses every sample once (the last pass of `steps` may be cut off).
    A short last batch is kept, but a single left-over sample joins the batch before it (see `batch_sizes`).

    Order and augmentation are functions of `seed` alone; give every client and round a seed of its own. No global
    random state is used. Gathering and augmentation happen where the split lies, images in uint8.
    """
    left = count_steps(len(indices), batch_size, epochs, steps)
    indices = indices.cpu()
    sizes = batch_sizes(len(indices), batch_size)
    order, offsets = torch_generator(seed, "order"), torch_generator(seed, "augment")
    while left > 0:
        shuffled = indices[torch.randperm(len(indices), generator=order, device="cpu")]
        shuffled = shuffled.to(split.x.device, non_blocking=True)
        for chosen in shuffled.split(sizes)[:left]:
            x = augment(split.x.index_select(0, chosen), offsets).to(device, non_blocking=True)
            y = split.y.index_select(0, chosen).to(device, non_blocking=True)
            yield normalise(x, memory_format), y
        left -= len(sizes)
