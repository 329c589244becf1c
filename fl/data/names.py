"""The option `--dataset`: what is there by name, and whether the clients are groups of its own."""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from compression.spec import SpecError, closest, nearest
from fl.common.config import DataOptions
from fl.common.errors import ConfigError, DataError

from .partition import NATURAL, SITES, check_partition

if TYPE_CHECKING:
    from .dataset import Dataset
    from .schema import Schema

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

TEXTS = ("shakespeare", "text")
"""Text, which `fl.data.text` reads: by its own name, and `text:PATH,...`."""

_WITH_GROUPS = ("csv", "femnist", "mental_state", "temperature")


def check_dataset(options: DataOptions, schema: "Schema | None" = None) -> Callable[[], "Dataset"]:
    """Look the name up before anything starts; the result loads the data, files of the user's own as `schema` says, if it is
    given. ConfigError if there is no such name, or if the data set is known to lack the groups that `--partition natural`
    needs."""
    name, folder = options.dataset, Path(options.data_dir)
    form = name.partition(":")[0]
    if is_text(options):
        if form == "text" != name:
            _check_path(name)
        try:
            return import_module("fl.data.text").reader(options, schema)
        except SpecError as error:
            raise ConfigError(f"--dataset {error}") from None
    if form in OWN_FILES and form != name:
        if form not in _WITH_GROUPS and is_natural(options):
            raise ConfigError(without_groups(options))
        _check_path(name)
        try:
            return import_module(OWN_FILES[form]).reader(name, schema)
        except SpecError as error:
            raise ConfigError(f"--dataset {error}") from None
    if name in DATASETS:
        if name not in _WITH_GROUPS and is_natural(options):
            raise ConfigError(without_groups(options))
        return lambda: import_module(DATASETS[name]).load(folder, options.download)
    if ":" in name:
        return _own_function(name, folder, schema)
    known = [*DATASETS, "shakespeare", *(f"{form}:PATH" for form in (*OWN_FILES, "text"))]
    raise ConfigError(f"--dataset '{name}' is not known{nearest(name, known)}")


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


def _own_function(name: str, folder: Path, schema: "Schema | None") -> Callable[[], "Dataset"]:
    """What calls the user's own function; its errors name the option, and the line that they come from. With a `schema` all
    samples are to train on."""
    from fl.common.plugin import line_of, load_function, reason

    try:
        function = load_function("--dataset", name, "folder")
    except ConfigError as error:
        form = closest(name.partition(":")[0], OWN_FILES)
        raise ConfigError(f"{error}{f'; did you mean {form}:PATH?' if form else ''}") from None

    def load() -> "Dataset":
        try:
            data: Dataset = function(folder)
            if schema is None:
                return data
            from .schema import joined

            return joined(data)
        except DataError as error:
            line = line_of(error)
            raise DataError(f"--dataset {name}: {error}{f' ({line})' if line else ''}") from None
        except Exception as error:
            raise DataError(f"--dataset {name} fails on {folder} ({reason(error)})") from error

    return load


def is_text(options: DataOptions) -> bool:
    """Whether the data set is text that `fl.data.text` reads."""
    return re.split("[:,]", options.dataset)[0] in TEXTS


def is_natural(options: DataOptions) -> bool:
    """Whether the clients are groups of the data set's own; SpecError for a partition that cannot be read."""
    return check_partition(options.partition).stage.name == NATURAL


def is_by_site(options: DataOptions) -> bool:
    """Whether each client has data of its own, on its own machine; SpecError for a partition that cannot be read."""
    return check_partition(options.partition).stage.name == SITES


def is_own(options: DataOptions) -> bool:
    """Whether the data set is the user's own: files, or what a function makes."""
    return ":" in options.dataset


def without_groups(options: DataOptions) -> str:
    """What to say where `--partition natural` meets data that have no groups."""
    if options.dataset.startswith("csv:"):
        return (
            f"--partition {options.partition} needs group=COLUMN, or group=@file for a client a file, in --dataset "
            f"{options.dataset}"
        )
    return (
        f"--partition {options.partition} needs a data set whose samples come in groups, such as femnist, "
        f"not --dataset {options.dataset}"
    )
