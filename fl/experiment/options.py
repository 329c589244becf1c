"""Which options an experiment file may set, and which must agree for two runs to be the same."""

import dataclasses
import re
from typing import Any, get_args, get_type_hints

from fl.common.config import Config
from fl.run.folder import FREE

REFUSED = {
    "seed": "list the seeds under the key seeds",
    "run_name": "folders are named after arm and seed",
    "resume": "every run goes on where it was",
    "quiet": "there is one progress bar over all runs",
    "output_dir": "give --output-dir on the command line",
    "data_dir": "give --data-dir on the command line",
}
"""Options that the runner sets, and what to do instead of setting them in the file."""

_EXPONENT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}


def plain_value(name: str, value: Any) -> Any:
    """The value of option `name` as it is meant: 1e-3 in quotes is a number all the same, and yes or off a switch."""
    kind = get_type_hints(Config)[name]
    if isinstance(value, str) and float in (kind, *get_args(kind)) and _EXPONENT.fullmatch(value):
        return float(value)
    return _SWITCHES.get(value.lower(), value) if kind is bool and isinstance(value, str) else value


def first_difference(stored: Config, wanted: Config) -> str | None:
    """The first option in which a stored run is not the wanted one, or None.

    What is still "auto" in `wanted`, or a number of clients still None, only the run itself can decide: any value will do.
    """
    for field in dataclasses.fields(Config):
        value = getattr(wanted, field.name)
        open_ = value == "auto" or (value is None and field.name in ("clients", "clients_per_round"))
        if field.name not in FREE and not open_ and getattr(stored, field.name) != value:
            return field.name
    return None
