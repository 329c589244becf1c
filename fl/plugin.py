"""A user's own function, named on the command line as `package.module:function`."""

import importlib
import re
from collections.abc import Callable
from typing import Any

from fl.errors import ConfigError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def load_function(option: str, reference: str) -> Callable[..., Any]:
    """The function that `reference` names; `option` (such as `--model`) is only used in messages.

    Raises ConfigError if the text is malformed, the module is absent, or it has no such function. An error inside
    the user's module is not caught: its traceback is what its author needs.
    """
    if not _REFERENCE.fullmatch(reference):
        raise ConfigError(f"{option} '{reference}' must be a known name or package.module:function")
    module_name, _, name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"{option} '{reference}': there is no module '{error.name}' on the Python path; "
            "start from its folder or add that to PYTHONPATH"
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{option} '{reference}': module '{module_name}' has no function '{name}'")
    return function
