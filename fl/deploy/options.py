"""The options of a run as an app's configuration holds them, and as a site has them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fl.common.config import Config, check_types, no_such_option
from fl.common.errors import ConfigError
from fl.common.paths import in_folder
from fl.data import is_by_site
from fl.run.checks import check_given

from .rules import check_deployed

OF_THE_SITE = ("data_dir", "cache_dir", "download", "device", "threads")
"""Options that each site gives for itself, in the configuration of its node."""
_ALL_ITS_OWN = {"val_fraction": 0.0, "limit_train": None, "limit_test": None}
"""A site with data of its own trains on all of them."""


def to_table(config: Config, explicit: frozenset[str]) -> dict[str, Any]:
    """The options that the user gave, by their names on the command line; one without a value is left out."""
    given = {name: getattr(config, name) for name in sorted(explicit)}
    return {name.replace("_", "-"): value for name, value in given.items() if value is not None}


def read_table(table: Mapping[str, Any]) -> tuple[Config, frozenset[str]]:
    """The inverse of `to_table`; ConfigError for options that there are not, or that cannot work across sites."""
    given = {name.replace("-", "_"): value for name, value in table.items()}
    known = [field.name for field in dataclasses.fields(Config)]
    for name in given:
        if name not in known:
            raise ConfigError(no_such_option(name, known))
    config, explicit = Config(**given), frozenset(given)
    check_types(config)
    check_given(config, explicit)
    check_deployed(config, explicit)
    return config, explicit


def at_site(config: Config, explicit: frozenset[str], node: Mapping[str, Any]) -> tuple[Config, frozenset[str]]:
    """The options as a site has them: those about the machine as its node's configuration gives them, if it does, and
    without what is the server's alone. With `--partition sites` the configuration gives `dataset` too, whose path, if it
    is relative, leads on from `data-dir`."""
    changes: dict[str, Any] = {"init": None, "sampling": "uniform", "dp": "none", "resume": None, "track": "none"}
    by_site = is_by_site(config)
    if by_site:
        changes |= _ALL_ITS_OWN
    for name in (*OF_THE_SITE, *(["dataset"] if by_site else [])):
        if (flag := name.replace("_", "-")) in node:
            changes[name] = node[flag]
    config = dataclasses.replace(config, **changes)
    check_types(config)
    return in_folder(config, "dataset", config.data_dir) if by_site else config, explicit
