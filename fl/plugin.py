"""A user's own function, named on the command line as `package.module:function`."""

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from fl.errors import ConfigError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def load_function(option: str, reference: str, *arguments: str) -> Callable[..., Any]:
    """The function that `reference` names; `option` (such as `--model`) is only used in messages. `arguments`: names of
    what it will be called with, by position; none where the caller sees to that.

    Raises ConfigError if the text is malformed, the module is absent, or it has no such function, or one with other
    parameters. An error inside the user's module is not caught: its traceback is what its author needs.
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
    if arguments:
        _check_parameters(option, reference, function, arguments)
    return function


def _check_parameters(option: str, reference: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    try:
        signature = inspect.signature(function, follow_wrapped=False)  # what is called is the wrapper
    except (TypeError, ValueError):  # some functions written in C have none to look at
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        name = reference.partition(":")[2]
        raise ConfigError(
            f"{option} '{reference}' is called as {name}({', '.join(arguments)}), which {name}{signature} does not take"
        ) from None
