"""Paths as people write them: `~`, `$VAR` and `${VAR}` in options are expanded, wherever the option comes from."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from .config import Config
from .errors import ConfigError
from .names import readable

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of the name of a file or folder, and of a path, on all usual file systems."""

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def expand(path: str, where: str) -> str:
    """`path` with its home folder and variables; ConfigError, which begins with `where`, if there are none of that name."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise ConfigError(f"{where} {path}: there is no environment variable {name}")
        return os.environ[name]

    _refuse_impossible(path, where)
    if "${" in _VARIABLE.sub("", path):
        raise ConfigError(f"{where} {path}: a variable is $NAME or ${{NAME}}")
    expanded = os.path.expanduser(_VARIABLE.sub(value, path))
    if expanded.startswith("~"):
        raise ConfigError(f"{where} {path}: there is no user {Path(expanded).parts[0][1:]}")
    _refuse_impossible(expanded, where)
    return expanded


def _refuse_impossible(path: str, where: str) -> None:
    """ConfigError for what no file system can have as a path."""
    try:
        sizes = [len(os.fsencode(name)) for name in path.split("/")]
    except UnicodeEncodeError:
        raise ConfigError(f"{where} {readable(path)}: no path holds half a surrogate pair") from None
    if "\0" in path:
        raise ConfigError(f"{where} {readable(path)}: no path holds the character NUL")
    if max(sizes) > LONGEST_NAME or sum(sizes) + len(sizes) > LONGEST_PATH:
        raise ConfigError(
            f"{where} {path[:40]}...: a path has at most {LONGEST_PATH} bytes, and each name in it at most {LONGEST_NAME}"
        )


def expand_paths(config: Config) -> Config:
    """`config` with the paths in it expanded: those of the options that `fl.common.config` declares with `path`."""
    changes: dict[str, Any] = {}
    for name, match in _matches(config).items():
        path = expand(match[1], f"--{name.replace('_', '-')}")
        changes[name] = match.string[: match.start(1)] + path + match.string[match.end(1) :]
    return dataclasses.replace(config, **changes)


def in_folder(config: Config, name: str, folder: str) -> Config:
    """`config`, its paths expanded, with the one that the option `name` holds in `folder`, unless it is absolute."""
    config = expand_paths(config)
    match = _matches(config).get(name)
    if match is None:
        return config
    path = str(Path(expand(folder, "--data-dir")) / match[1])
    changes: dict[str, Any] = {name: match.string[: match.start(1)] + path + match.string[match.end(1) :]}
    return dataclasses.replace(config, **changes)


def paths_in(config: Config) -> dict[str, Path]:
    """The paths that options hold, by the option's name."""
    return {name: Path(match[1]) for name, match in _matches(config).items()}


def _matches(config: Config) -> dict[str, re.Match[str]]:
    found = {}
    for field in dataclasses.fields(config):
        value, pattern = getattr(config, field.name), field.metadata["path"]
        match = re.fullmatch(pattern, value) if pattern and isinstance(value, str) else None
        if match is not None:
            found[field.name] = match
    return found


def expanded(text: str) -> Path:
    """For `type=` of an argparse option: the path, expanded."""
    return Path(expand(text, "path"))
