"""Data sets by name, and the first cuts: whose training samples, and how many of them. Imports `common` alone."""

import dataclasses
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from compression.spec import SpecError, closest, nearest
from fl.common.config import DataOptions
from fl.common.errors import ConfigError, DataError
from fl.common.plugin import line_of, load_function, reason
from fl.common.seeds import numpy_generator, seeded
from fl.common.surroundings import kept_surroundings

from .dataset import Dataset, Split
from .groups import draw_groups, share_of_each, take_of_each, without_groups
from .partition import NATURAL, check_partition
from .pictures import progress_bars

__all__ = ["DATASETS", "Dataset", "Split", "check_dataset", "is_natural", "load_dataset"]

DATASETS = {
    "cifar10": "fl.data.cifar10",
    "digits": "fl.data.digits",
    "emotion": "fl.data.emotion",
    "femnist": "fl.data.femnist",
    "mental_state": "fl.data.mental_state",
    "mnist": "fl.data.mnist",
    "temperature": "fl.data.temperature",
    "tiny_imagenet": "fl.data.tiny_imagenet",
}
"""Built-in data sets: the module whose `load(data_dir, download)` returns the Dataset."""

OWN_FILES = {
    "csv": "fl.data.csv_table",
    "imagefolder": "fl.data.image_folder",
}
"""Forms of the user's own files, `--dataset FORM:PATH,...`: the module whose `reader(specification)` returns what loads
the Dataset, or raises SpecError."""

_WITH_GROUPS = ("csv", "femnist", "mental_state", "temperature")


def check_dataset(options: DataOptions) -> Callable[[], Dataset]:
    """Look the name up before anything starts; the result loads the data. ConfigError if there is no such name,
    or if the data set is known to lack the groups that `--partition natural` needs."""
    name, folder = options.dataset, Path(options.data_dir)
    form = name.partition(":")[0]
    if form in OWN_FILES and form != name:
        if form not in _WITH_GROUPS and is_natural(options):
            raise ConfigError(without_groups(options))
        _check_path(name)
        try:
            return import_module(OWN_FILES[form]).reader(name)
        except SpecError as error:
            raise ConfigError(f"--dataset {error}") from None
    if name in DATASETS:
        if name not in _WITH_GROUPS and is_natural(options):
            raise ConfigError(without_groups(options))
        return lambda: import_module(DATASETS[name]).load(folder, options.download)
    if ":" in name:
        return _own_function(name, folder)
    raise ConfigError(f"--dataset '{name}' is not known{nearest(name, [*DATASETS, *(f'{f}:PATH' for f in OWN_FILES)])}")


def _check_path(name: str) -> None:
    """ConfigError where a comma or an equals sign in the path would make something else of the specification."""
    form, _, rest = name.partition(":")
    path, *options = rest.split(",")
    strange = [word for word in options if word and "=" not in word]
    if "=" in path or strange:
        raise ConfigError(
            f"--dataset '{name}': {form} takes one PATH, which must hold no comma and no '=', and after it only key=value, "
            f"not '{strange[0] if strange else path}'"
        )


def _own_function(name: str, folder: Path) -> Callable[[], Dataset]:
    """What calls the user's own function; its errors name the option, and the line that they come from."""
    try:
        function = load_function("--dataset", name, "folder")
    except ConfigError as error:
        form = closest(name.partition(":")[0], OWN_FILES)
        raise ConfigError(f"{error}{f'; did you mean {form}:PATH?' if form else ''}") from None

    def load() -> Dataset:
        try:
            return function(folder)
        except DataError as error:
            line = line_of(error)
            raise DataError(f"--dataset {name}: {error}{f' ({line})' if line else ''}") from None
        except Exception as error:
            raise DataError(f"--dataset {name} fails on {folder} ({reason(error)})") from error

    return load


def load_dataset(options: DataOptions, *, seed: int, quiet: bool = False) -> Dataset:
    """The data set that the options name, on the CPU, its training part cut to `--limit-train` samples by seed, its test
    part to `--limit-test`. With `quiet` no progress bar shows, however long it takes.

    With `--partition natural`, before that cut, to the groups of `--clients` clients: `groups` then holds the client of
    every sample, and no client loses all of its own. Without, `groups` is None: nothing follows from them.

    Raises ConfigError for an unknown name and DataError for missing or malformed data. Safe to call on all ranks at
    once: the ranks of one machine take turns when something has to be downloaded.
    """
    with progress_bars(not quiet), kept_surroundings(), seeded(seed, "data"):
        data = check_dataset(options)()
    if not isinstance(data, Dataset):
        raise DataError(f"--dataset {options.dataset} must return a fl.data.Dataset, not {type(data).__name__}")
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


def is_natural(options: DataOptions) -> bool:
    """Whether the clients are groups of the data set's own; SpecError for a partition that cannot be read."""
    return check_partition(options.partition).stage.name == NATURAL


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
