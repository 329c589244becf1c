"""Data whose samples come in groups, such as those of one writer: drawing groups, and samples evenly from all of them."""

import dataclasses

import numpy as np
import torch

from fl.common.config import DataOptions
from fl.common.errors import ConfigError
from fl.common.seeds import numpy_generator

from .dataset import Dataset
from .names import without_groups


def draw_groups(data: Dataset, options: DataOptions, minimum: int, seed: int) -> Dataset:
    """The training samples of `--clients` groups, drawn by seed; all if it is not given. The test data stay whole.

    Only groups of at least `minimum` training samples take part. In the result the groups are numbered 0 ... C-1, in
    the order of their old numbers. Raises ConfigError if the data have no groups, or too few that are large enough.
    """
    if data.groups is None:
        raise ConfigError(without_groups(options))
    _, group, sizes = np.unique(data.groups.numpy(), return_inverse=True, return_counts=True)
    eligible = np.flatnonzero(sizes >= minimum)
    wanted = options.clients or len(eligible)
    if not 1 <= wanted <= len(eligible):
        asked = f"--clients {options.clients} with " if options.clients else ""
        raise ConfigError(
            f"{asked}--partition {options.partition}: only {len(eligible)} of the {len(sizes)} groups of {data.name} "
            f"have at least {minimum} training samples"
        )
    chosen = np.sort(numpy_generator(seed, "groups").choice(eligible, wanted, replace=False))
    client = np.full(len(sizes), -1)
    client[chosen] = np.arange(wanted)
    owner = client[group]
    at = np.flatnonzero(owner >= 0)
    groups = torch.from_numpy(owner[at].astype(np.int64))
    return dataclasses.replace(data, train=data.train.take(torch.from_numpy(at)), groups=groups)


def share_of_each(sizes: np.ndarray, total: int) -> np.ndarray:
    """How many samples to keep of groups of these `sizes` (int64 [G], all positive) to keep `total` of them.

    At least one of each group, the others in proportion to what the groups have besides, to within one sample. Needs
    G <= total <= sum of sizes.
    """
    spare = sizes - 1
    all_, wanted = int(spare.sum()), total - len(sizes)
    # rounding running sums, not shares, keeps the total exact; in integers, so it is the same everywhere
    ends = (2 * np.cumsum(spare) * wanted + all_) // max(1, 2 * all_)
    return 1 + np.diff(ends, prepend=0)


def take_of_each(groups: np.ndarray, counts: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Sorted positions in `groups` (int64 [N], numbers 0 ... G-1) of `counts[g]` random members of every group g."""
    order = generator.permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]  # by group, at random within a group
    sizes = np.bincount(groups, minlength=len(counts))
    rank = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < counts[groups[order]]])
