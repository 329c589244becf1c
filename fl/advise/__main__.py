"""`leanfed advise`: a user's mistake is one line on stderr and exit status 2."""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from compression.errors import NonFiniteError
from compression.grammar import read_codec
from compression.spec import SpecError
from fl.clock.profiles import Profile
from fl.common.config import Config
from fl.common.errors import ConfigError, DataError, DiskError, RoundError
from fl.common.huge_pages import use_huge_pages
from fl.common.launch import detect_launcher, read_place
from fl.common.mode import mode_of
from fl.common.paths import expand_paths, expanded
from fl.common.terminal import Parser, end_with_mistake, lasting_output
from fl.run.checks import check_given
from fl.run.cli import naming_variables, parse

from .candidates import chosen
from .links import read_link

_WIDTH = 150
_STDOUT = "-"


def make_parser() -> Parser:
    """The parser of the command's own options; all others are those of a run."""
    parser = Parser(
        prog="leanfed advise",
        description="Which codec? Trains a few steps, encodes the real updates with every codec, and says which one is the "
        "soonest over a link (docs/advise.md).",
        epilog="All options of a run can be given too: leanfed --help lists them.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--link",
        help="of every client: a name such as poor_3g, Mbit/s as in 10, 2/20 (up/down) or 2/20,latency=50 (ms), or whatever "
        "--profiles takes (default: --profiles)",
    )
    parser.add_argument(
        "--codec", action="append", default=[], metavar="SPEC", help="another codec to compare; repeatable"
    )
    parser.add_argument(
        "--confirm", type=int, metavar="N", help="runs of N rounds correct what is expected of the best"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=_STDOUT,
        metavar="FILE",
        help="every figure to FILE too, or instead to standard output",
    )
    return parser


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    """The program: read, check, measure, show."""
    use_huge_pages()
    try:
        own, rest = make_parser().parse_known_args(sys.argv[1:] if argv is None else argv)
        with naming_variables(rest):
            config, explicit = parse(rest)
            config, link = read_link(own.link, config)
            config = expand_paths(config)
            _check(own, config, explicit)
            file = None if own.json in (None, _STDOUT) else expanded(own.json)
            _show(own, config, explicit, link, file)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ConfigError, SpecError, DataError, RoundError, NonFiniteError) as error:
        end_with_mistake(error)


def _check(own: argparse.Namespace, config: Config, explicit: frozenset[str]) -> None:
    """ConfigError for what cannot be, before torch is imported."""
    if read_place().world_size > 1:
        raise ConfigError(f"advise measures in one process: start it without {detect_launcher()}")
    if config.resume is not None:
        raise ConfigError(f"--resume {config.resume}: advise runs nothing on; give --init RUN/final_model.safetensors")
    check_given(dataclasses.replace(config, **chosen(config, explicit)), explicit)
    if not mode_of(config).sees_each_update:
        raise ConfigError(
            "advise is about updates that a server receives: --mode must not be step, nor --exchange hook"
        )
    for spec in own.codec:
        try:
            read_codec(spec)
        except SpecError as error:
            raise ConfigError(f"--codec {error}") from None
    if own.confirm is not None and own.confirm < 1:
        raise ConfigError(f"--confirm {own.confirm} must be at least 1, the number of rounds")
    if own.json not in (None, _STDOUT) and (expanded(own.json).is_dir() or not expanded(own.json).parent.is_dir()):
        raise ConfigError(f"--json {own.json} must be a file in a folder that exists")


def _show(
    own: argparse.Namespace, config: Config, explicit: frozenset[str], link: Profile | None, file: Path | None
) -> None:
    from rich.console import Console

    from .advice import advise
    from .choose import recommend
    from .confirm import confirm
    from .table import as_json, confirmed_table, table

    advice = advise(config, explicit, link, own.link or config.profiles, own.codec, confirms=bool(own.confirm))
    confirmed = confirm(advice, config, explicit, own.confirm) if own.confirm else []
    pair = recommend([one.pair for one in confirmed], math.inf) if confirmed else advice.advised
    told = json.dumps(as_json(advice, confirmed, pair), indent=2) + "\n"
    if file is not None:
        try:
            file.write_text(told, encoding="utf-8")
        except OSError as error:
            raise DiskError(f"--json {file} cannot be written ({error.strerror})") from None
    if own.json == _STDOUT:
        sys.stdout.write(told)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    if not config.quiet:
        console.print(table(advice))
        if confirmed:
            console.print(confirmed_table(confirmed, own.confirm))
    sys.stdout.write(f"{pair.options}\n")


if __name__ == "__main__":
    main()
