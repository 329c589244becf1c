"""The data set that the options name, and the first cuts: whose training samples, and how many of them."""

import dataclasses

import numpy as np
import torch

from fl.common.config import DataOptions
from fl.common.errors import ConfigError, DataError
from fl.common.generators import seeded
from fl.common.seeds import numpy_generator
from fl.common.surroundings import kept_surroundings

from .cache import cache_in
from .dataset import Dataset
from .groups import draw_groups, share_of_each, take_of_each
from .names import check_dataset, is_natural
from .partition import check_partition
from .pictures import progress_bars
from .schema import Schema, fitted


def load_dataset(options: DataOptions, *, seed: int, quiet: bool = False, schema: Schema | None = None) -> Dataset:
    """The data set that the options name, on the CPU, its training part cut to `--limit-train` samples by seed, its test
    part to `--limit-test`. With `quiet` no progress bar shows, however long it takes.

    With `--partition natural`, before that cut, to the groups of `--clients` clients: `groups` then holds the client of
    every sample, and no client loses all of its own. Without, `groups` is None: nothing follows from them.

    With a `schema` the data are read as it says, all of them to train on: the other splits mean nothing then.

    Raises ConfigError for an unknown name and DataError for missing or malformed data. Safe to call on all ranks at
    once: the ranks of one machine take turns when something has to be downloaded.
    """
    with progress_bars(not quiet), cache_in(options.cache_dir), kept_surroundings(), seeded(seed, "data"):
        data = check_dataset(options, schema)()
    if not isinstance(data, Dataset):
        raise DataError(f"--dataset {options.dataset} must return a fl.data.Dataset, not {type(data).__name__}")
    if schema is not None:
        return fitted(data, schema, f"--dataset {options.dataset}")
    if options.limit_test is not None and options.limit_test < len(data.test):
        data = dataclasses.replace(
            data, test=data.test.take(_drawn(len(data.test), options.limit_test, seed, "limit_test"))
        )
    if is_natural(options):
        data = draw_groups(data, options, check_partition(options.partition).minimum, seed)
    else:
        data = dataclasses.replace(data, groups=None)
    limit = options.limit_train
    return data if limit is None or limit >= len(data.train) else _limited(data, limit, seed)


def _limited(data: Dataset, limit: int, seed: int) -> Dataset:
    """The data set with `limit` of its training samples; of its groups, if it has any, at least one each."""
    if data.groups is None:
        return dataclasses.replace(data, train=data.train.take(_drawn(len(data.train), limit, seed, "limit_train")))
    generator = numpy_generator(seed, "limit_train")
    groups = data.groups.numpy()
    sizes = np.bincount(groups)
    if limit < len(sizes):
        raise ConfigError(f"--limit-train {limit} must leave each of the {len(sizes)} clients a sample")
    chosen = torch.from_numpy(take_of_each(groups, share_of_each(sizes, limit), generator))
    return dataclasses.replace(data, train=data.train.take(chosen), groups=data.groups[chosen])


def _drawn(count: int, limit: int, seed: int, purpose: str) -> torch.Tensor:
    """So many of the positions 0 ... count-1, ascending, int64."""
    return torch.from_numpy(np.sort(numpy_generator(seed, purpose).choice(count, limit, replace=False)))
