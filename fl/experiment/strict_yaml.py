"""YAML in which a key that is given twice is a mistake, not a silent choice of the last one."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if name != "<<" and names.count(name) > 1:
                raise ConfigError(f"the key '{name}' is given twice; keep one of them")
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    """What the file holds, as plain Python values; ConfigError if it cannot be read or is not YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())}") from None
