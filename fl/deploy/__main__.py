"""`leanfed deploy [OPTIONS] FOLDER`: writes a Flower app that runs these options across sites."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compression.spec import SpecError
from fl.common.config import Config
from fl.common.errors import ConfigError, DataError
from fl.common.files import naming, write_bytes
from fl.common.paths import expand_paths, expanded
from fl.common.terminal import Parser, end_with_mistake, lasting_output, say
from fl.run.checks import check_given
from fl.run.cli import naming_variables, parse

from .options import OF_THE_SITE, to_table
from .rules import check_deployed

_USAGE = "leanfed deploy [--config FILE.yaml] [any option of a run] FOLDER"
_SCRIPTS = {
    "superlink.sh": """\
#!/bin/sh
# The server: ./superlink.sh KEYS [further options of flower-superlink], with the folder that leanfed certificates wrote.
# Sites reach it through KEYS/nginx.conf. Which of them are registered is in KEYS/superlink.db.
set -eu
keys=$1
shift
exec flower-superlink --ssl-ca-certfile "$keys/ca.crt" --ssl-certfile "$keys/server.crt" --ssl-keyfile "$keys/server.key" \\
    --enable-supernode-auth --database "$keys/superlink.db" --disable-runtime-dependency-installation \\
    --host 127.0.0.1 --port 9090 "$@"
""",
    "supernode.sh": """\
#!/bin/sh
# A site: ./supernode.sh KEYS SERVER:9443 CLIENT [NODE_CONFIG [further options of flower-supernode]]
# KEYS holds ca.crt and site-CLIENT.key; NODE_CONFIG is as in 'data-dir="/srv/data" state-dir="/srv/state"'.
set -eu
keys=$1 server=$2 client=$3 config=${4-}
shift $(($# < 4 ? $# : 4))
exec flower-supernode --root-certificates "$keys/ca.crt" --auth-supernode-private-key "$keys/site-$client.key" \\
    --superlink "$server" --node-config "partition-id=$client $config" "$@"
""",
}
_COMPONENTS = {"serverapp": "fl.deploy.flower.server_app:app", "clientapp": "fl.deploy.flower.client_app:app"}


def write_app(folder: Path, config: Config, explicit: frozenset[str]) -> None:
    """Write the app to `folder`, which is made; ConfigError if it holds one, or for options that cannot work."""
    check_given(expand_paths(config), explicit)
    check_deployed(config, explicit)
    path = folder / "pyproject.toml"
    if path.exists():
        raise ConfigError(f"{folder} holds a pyproject.toml already: choose another folder, or delete it")
    tables = {
        "project": {
            "name": "leanfed-app",
            "version": "1.0.0",
            "description": "A run of LeanFed",
            "license": "Apache-2.0",
        },
        "tool.flwr.app": {"publisher": "leanfed"},
        "tool.flwr.app.components": _COMPONENTS,
        "tool.flwr.app.config": to_table(config, explicit),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in _SCRIPTS.items():
        write_bytes(folder / name, script.encode())
        (folder / name).chmod(0o755)
    write_bytes(path, _toml(tables).encode())


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items()), ""]
    return "\n".join(lines)


def _value(value: str | float | bool) -> str:
    """A value in TOML: as in JSON, but for a character that must be escaped there."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def make_parser() -> Parser:
    """The parser of what is not an option of a run."""
    parser = Parser(prog="leanfed deploy", usage=_USAGE, description="Writes a Flower app; see docs/deploy.md.")
    parser.add_argument("folder", metavar="FOLDER", help="where to write it")
    return parser


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    """The program: read the options, write the app, say how to start it."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words in (["--help"], ["-h"]):
        make_parser().print_help()
        raise SystemExit(0 if words else 2)
    name = words.pop(-1 if words[0].startswith("-") else 0)
    try:
        if name.startswith("-"):
            raise ConfigError(f"the folder of the app must come first or last: {_USAGE}")
        folder = expanded(name)
        with naming(folder), naming_variables(words):
            write_app(folder, *parse(words))
    except OSError as error:
        end_with_mistake(ConfigError(f"{error.filename} cannot be written ({error.strerror})"))
    except (ConfigError, SpecError, DataError) as error:
        end_with_mistake(error)
    sites = ", ".join(name.replace("_", "-") for name in OF_THE_SITE)
    say(f"{folder} is written; each site gives its own partition-id and state-dir, and where it needs them {sites}.")
    say(f"Start it with: flwr run {folder}")
