"""A user's own function, named on the command line as `package.module:function`."""

import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from compression.spec import FUNCTION

from .errors import ConfigError
from .generators import seeded
from .surroundings import kept_surroundings
from .torchvision_shim import prepare_torchvision

_NOT_THE_USERS = tuple(
    str(folder) for folder in (Path(__file__).parents[1], *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))
)


def load_function(option: str, reference: str, *arguments: str) -> Callable[..., Any]:
    """The function that `reference` names; `option` (such as `--model`) is only used in messages. `arguments`: names of
    what it will be called with, by position; none where the caller sees to that.

    Raises ConfigError if the text is malformed, the module is absent or cannot be imported, or it has no such function, or
    one with other parameters. What the module draws or sets for the whole process when it is imported holds there alone.
    """
    if not FUNCTION.fullmatch(reference):
        raise ConfigError(f"{option} '{reference}' must be a known name or package.module:function")
    module_name, _, name = reference.partition(":")
    module = _import(option, reference, module_name)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{option} '{reference}': module '{module_name}' has no function '{name}'")
    if arguments:
        _check_parameters(option, reference, function, arguments)
    return function


def _import(option: str, reference: str, name: str) -> ModuleType:
    prepare_torchvision()
    try:
        with kept_surroundings(), seeded(0, "import"):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{option} '{reference}': there is no module '{error.name}' on the Python path; "
                "start from its folder or add that to PYTHONPATH"
            ) from None
        raise ConfigError(f"{option} '{reference}': module '{name}' cannot be imported ({reason(error)})") from error
    except (Exception, SystemExit) as error:  # a script that reads the command line exits
        raise ConfigError(f"{option} '{reference}': module '{name}' cannot be imported ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """What a user's own code raised, in one line: the kind, its words, and the line of that code that it comes from."""
    words = " ".join(str(error).split())
    said = f"{type(error).__name__}: {words}" if words else type(error).__name__
    line = line_of(error)
    return f"{said}; {line}" if line and not isinstance(error, SyntaxError) else said  # that says where it is


def line_of(error: BaseException) -> str:
    """The last line of a user's own code that `error` came through, as `file.py, line 12`; empty if there is none."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [at for at in frames if at[0].endswith(".py") and not at[0].startswith(_NOT_THE_USERS)]
    return f"{Path(own[-1][0]).name}, line {own[-1][1]}" if own else ""


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
