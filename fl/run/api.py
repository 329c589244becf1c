"""The program from Python: the same options, the same run."""

import dataclasses
from typing import Any

from fl.common.config import Config, no_such_option
from fl.common.errors import ConfigError
from fl.common.huge_pages import use_huge_pages


def train(**options: Any) -> dict[str, Any]:
    """Run to the end with these options, named as in `fl.common.config.Config`, and return what summary.json holds.

    The dict is empty on ranks other than 0. Works in a single process and under any launcher; a process group that
    exists is used and left as it is. Raises ConfigError, DataError, RoundError or compression's NonFiniteError, each
    with one sentence that says what to change.
    """
    names = [field.name for field in dataclasses.fields(Config)]
    for name in options:
        if name not in names:
            raise ConfigError(no_such_option(name, names))
    use_huge_pages()
    from .loop import run

    return run(Config(**options), explicit=frozenset(options))
