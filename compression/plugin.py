"""Codecs of the user's own."""

import importlib
from collections.abc import Collection

from .codec import Codec
from .spec import SpecError, nearest


def plug_in(spec: str, names: Collection[str]) -> Codec:
    """The codec of the function that `spec` names, as module:function; SpecError if there is none.

    `names`: of codec stages, one of which may have been meant.
    """
    name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(name), function_name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise SpecError(f"'{spec}': module '{name}' cannot be imported ({error})") from error
        raise SpecError(
            f"'{spec}': there is neither a codec stage nor a module '{error.name}' on the Python path"
            f"{nearest(name, names)}"
        ) from None
    except (Exception, SystemExit) as error:  # a script that reads the command line exits
        raise SpecError(f"'{spec}': module '{name}' cannot be imported ({type(error).__name__}: {error})") from error
    if not callable(function):
        raise SpecError(f"'{spec}': module '{name}' has no function '{function_name}'")
    try:
        codec = function(spec)
    except Exception as error:
        raise SpecError(f"'{spec}': {function_name}(spec) fails ({type(error).__name__}: {error})") from error
    if not isinstance(codec, Codec) or codec.spec != spec:
        raise SpecError(
            f"'{spec}': {function_name}(spec) must return a compression.Codec with that spec, not {codec!r}"
        )
    return codec
