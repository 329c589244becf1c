"""Data sets by name, and the first two cuts: how many training samples, and which."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from compression.spec import nearest
from fl.config import DataOptions
from fl.data.dataset import Dataset, Split
from fl.errors import ConfigError, DataError
from fl.plugin import load_function
from fl.seeds import numpy_generator

__all__ = ["DATASETS", "Dataset", "Split", "check_dataset", "load_dataset"]

DATASETS = {"cifar10": "fl.data.cifar10", "digits": "fl.data.digits", "mnist": "fl.data.mnist"}
"""Built-in data sets: the module whose `load(data_dir, download)` returns the Dataset."""


def check_dataset(options: DataOptions) -> Callable[[], Dataset]:
    """Look the name up before anything starts; the result loads the data. ConfigError if there is no such name."""
    name, folder = options.dataset, Path(options.data_dir)
    if name in DATASETS:
        return lambda: import_module(DATASETS[name]).load(folder, options.download)
    if ":" in name:
        function = load_function("--dataset", name)
        return lambda: function(folder)
    raise ConfigError(f"--dataset '{name}' is not known{nearest(name, DATASETS)}")


def load_dataset(options: DataOptions, *, seed: int) -> Dataset:
    """The data set that the options name, on the CPU, its training part cut to `--limit-train` samples by seed.

    Raises ConfigError for an unknown name and DataError for missing or malformed data. Safe to call on all ranks at
    once: the ranks of one machine take turns when something has to be downloaded.
    """
    data = check_dataset(options)()
    if not isinstance(data, Dataset):
        raise DataError(f"--dataset {options.dataset} must return a fl.data.Dataset, not {type(data).__name__}")
    limit = options.limit_train
    if limit is None or limit >= len(data.train):
        return data
    chosen = numpy_generator(seed, "limit_train").choice(len(data.train), limit, replace=False)
    train = data.train.take(torch.from_numpy(chosen).sort().values)
    return Dataset(data.name, train, data.test, data.classes, data.augment)
