"""`leanfed completion SHELL`: the script by which a shell completes the command, its options and their values."""

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import shtab

from fl.__main__ import PROGRAMS
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.terminal import Parser, end_with_mistake, lasting_output
from fl.run import cli

_SHELLS = ("bash", "zsh")
_TAKE_RUN_OPTIONS = ("advise", "deploy")


def make_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(prog="leanfed completion", description=__doc__, allow_abbrev=False)
    parser.add_argument("shell", choices=_SHELLS, help="which shell it is for")
    return parser


def all_commands() -> argparse.ArgumentParser:
    """The whole command line as one parser, made for completion alone: it does not check values."""
    whole = argparse.ArgumentParser(prog="leanfed")
    _add_run_options(whole)
    programs = whole.add_subparsers()
    for name, where in PROGRAMS.items():
        parser = importlib.import_module(where.partition(":")[0]).make_parser()
        program = programs.add_parser(name, help=parser.description, parents=[parser], add_help=False)
        for action in program._actions:
            if action.nargs != 0 and action.type not in (int, float) and not action.choices:
                _complete(action, shtab.FILE)
        if name in _TAKE_RUN_OPTIONS:
            _add_run_options(program)
    return whole


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    hints, names = get_type_hints(Config), cli.option_names()
    for action in cli.make_parser()._actions:
        flags = [flag for flag in action.option_strings if "_" not in flag]
        if action.dest not in (*hints, "config"):
            continue
        kind = hints.get(action.dest, str)
        if kind is bool:
            parser.add_argument(*flags, action="store_true", help=action.help)
            continue
        new = parser.add_argument(*flags, help=action.help)
        if get_origin(kind) is Literal:
            new.choices = get_args(kind)
        elif str in (kind, *get_args(kind)):
            new.choices = [re.split(r"\W", name)[0] for name in names.get(action.dest, ())] or None
            if not new.choices:
                _complete(new, shtab.FILE)


def _complete(action: argparse.Action, by: Any) -> None:
    action.complete = by  # type: ignore[attr-defined]


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    """The program: print the script."""
    try:
        options = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        end_with_mistake(error)
    sys.stdout.write(shtab.complete(all_commands(), options.shell))
