"""YAML files as this program reads them: numbers, booleans and null as in YAML 1.2, and no key twice.

YAML 1.1, PyYAML's own, reads 1e-3 as text, 010 as 8, 1:30 as 90 and off as false. Of it only 10_000 and << are kept.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError
from .text_file import CANNOT_READ, read_text

_CORE = {
    "null": ("~|null|Null|NULL|", "~nN\0"),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": ("<<", "<"),
}
_MOST_NODES, _DEEPEST, _MOST_CHARACTERS = 100_000, 100, 1_000_000
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """All values with their types."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's own way)

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _count(node, {}) > _MOST_NODES:
            raise ConfigError(f"has more than {_MOST_NODES} entries once its aliases are written out")
        return node

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        text = node.value
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


class _Texts(_Loader):
    """All values but null as the text that stands in the file."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012


for _tag, (_pattern, _first) in _CORE.items():
    for _class in (_Loader, _Texts) if _tag in ("null", "merge") else (_Loader,):
        _starts = ["" if letter == "\0" else letter for letter in _first]
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _starts)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)


def _count(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many nodes there are below, an alias counted as often as it stands there; ConfigError for one inside itself, and
    for a key that stands twice."""
    if id(node) not in counts:
        counts[id(node)] = 0
        below = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            below = [each for pair in node.value for each in pair]
            _refuse_twins([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        counts[id(node)] = 1 + sum(_count(each, counts) for each in below)
    elif not counts[id(node)]:
        raise ConfigError("has an alias that stands inside of what it means")
    return counts[id(node)]


def _refuse_twins(keys: list[str]) -> None:
    for key, count in Counter(keys).items():
        if count > 1:
            hint = "write <<: [*a, *b]" if key == "<<" else "keep one of them"
            raise ConfigError(f"the key '{key}' is given twice; {hint}")


def parse_yaml(text: str, *, texts: bool = False) -> Any:
    """What YAML text means, as plain Python values; `texts` as in `load_yaml`. ConfigError if it is not YAML."""
    try:
        depth = 0
        for count, event in enumerate(yaml.parse(text, _SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise ConfigError(f"is nested more than {_DEEPEST} deep")
            if count > 2 * _MOST_NODES:  # each node has one event or two
                raise ConfigError(f"has more than {_MOST_NODES} entries")
        return yaml.load(text, _Texts if texts else _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {_in_one_line(error)}") from None
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):  # !!int x, !!bool x, !!set [1], !!timestamp x
        raise ConfigError("is not YAML: a value is not what its !!tag says, or too long") from None


def _in_one_line(error: yaml.YAMLError) -> str:
    """What is wrong and in which lines, without the text that stands there."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    pairs = ((error.context, error.context_mark), (error.problem, error.problem_mark))
    return ", ".join(f"{words}{f' in line {mark.line + 1}' if mark else ''}" for words, mark in pairs if words)


def load_yaml(path: Path, *, texts: bool = False) -> Any:
    """What the file holds, as plain Python values; ConfigError if it cannot be read or is not YAML.

    `texts`: values as they are written, for who knows what is meant: 007 or off may be a name.
    """
    try:
        text, remark = read_text(path)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror or error})") from None
    except CANNOT_READ as error:
        raise ConfigError(f"cannot be read ({error})") from None
    if remark:
        raise ConfigError("is not text in UTF-8: save it in that encoding")
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(f"has more than {_MOST_CHARACTERS} characters: options need less")
    return parse_yaml(text, texts=texts)
