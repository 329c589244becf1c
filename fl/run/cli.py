"""The command line, the YAML file and the environment, all made from `fl.common.config`."""

import contextlib
import dataclasses
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ActionYesNo, ArgumentParser, Namespace

from compression.errors import NonFiniteError
from compression.spec import SpecError, closest, nearest
from fl.algorithms.spec import algorithm_names
from fl.common.config import GROUPS, MOVED, Config, no_such_option
from fl.common.errors import ConfigError, DataError, RoundError
from fl.common.huge_pages import use_huge_pages
from fl.common.launch import start_all_of_accelerate
from fl.common.mode import MODES
from fl.common.paths import expand_paths, expanded
from fl.common.stopping import Stopped, stopping
from fl.common.terminal import end_with_mistake, lasting_output, say
from fl.common.yaml_file import load_yaml, parse_yaml
from fl.data import DATASETS
from fl.models import MODELS
from fl.pruning.spec import METHODS
from fl.server.rules import aggregate_names
from fl.server.spec import server_optimizers

from .checks import check_given

_PREFIX = "LEANFED"
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_SET_BY_LAUNCHERS = "local_rank"
_OTHER_VARIABLES = {"LEANFED_DATA", "LEANFED_REQUIRE_DATA"}  # the tests' own


def make_parser() -> ArgumentParser:
    """The parser of all options; `--config`, `--print_config` and LEANFED_... variables included."""
    parser = ArgumentParser(
        prog="leanfed",
        description="Federated training in which every rank is a client, with compressed exchange and counted bytes.",
        env_prefix=_PREFIX,
        default_env=True,
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML or JSON file of options")
    known = option_names()
    for group in GROUPS:
        section = parser.add_argument_group((group.__doc__ or "").splitlines()[0])
        hints = get_type_hints(group)
        for field in dataclasses.fields(group):
            name = field.name
            flags = [f"--{name.replace('_', '-')}"] + ([f"--{name}"] if "_" in name else [])
            kind: dict[str, Any] = {"type": hints[name]}
            if hints[name] is bool:
                kind, flags = {"action": ActionYesNo(yes_prefix="", no_prefix="no-")}, flags[:1]
            text = ": ".join([field.metadata["help"], *([", ".join(known[name])] if name in known else [])])
            section.add_argument(*flags, default=field.default, help=text, **kind)
    # DeepSpeed's launcher passes the rank in this way; it is in the environment too, and read from there.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="set by launchers")
    return parser


def option_names() -> dict[str, Sequence[str]]:
    """By option, the names that its parser knows, as they are written: the end of its help text."""
    return {
        "dataset": tuple(DATASETS),
        "model": MODELS,
        "algorithm": algorithm_names(),
        "prune": METHODS,
        "mode": tuple(MODES.values()),
        "server": tuple(server_optimizers),
        "aggregate": aggregate_names(),
        "server_lr": [f"{entry.usual_lr:g} for {name}" for name, entry in server_optimizers.items()],
    }


def parse(argv: Sequence[str], defaults: dict[str, Any] | None = None) -> tuple[Config, frozenset[str]]:
    """The options and the names of those that the user gave; ConfigError if they cannot be read.

    `defaults` replace those of `fl.common.config`. `--help` and `--print_config` print and exit.
    """
    parser = make_parser()
    parser.set_defaults(defaults or {})
    _refuse_unknown_variables(parser)
    files, rest = _split(argv)
    told = {**_variables(), **{name: text for file in files for name, text in _read_file(file).items()}}
    words = [*(_word(name, text) for name, text in told.items()), *_numbers(rest)]
    try:
        values = parser.parse_args(words, env=False)
        given = parser.parse_args([a for a in words if not a.startswith("--print_config")], env=False, defaults=False)
    except Exception as error:
        raise ConfigError(_one_sentence(parser, str(error))) from None
    names = {field.name for field in dataclasses.fields(Config)}
    options = {name: value for name, value in _plain(values).items() if name in names}
    return Config(**options), frozenset(name for name in _plain(given) if name in names)


@lasting_output()
@stopping.on_signals()
def main(argv: Sequence[str] | None = None, defaults: dict[str, Any] | None = None) -> None:
    """The program: parse, run, show the result; a user's mistake is one line on stderr and exit status 2.

    A signal ends it after the round that runs, with one line that says how to go on, and exit status 130 or 143.
    """
    start_all_of_accelerate()
    use_huge_pages()
    try:
        words = sys.argv[1:] if argv is None else argv
        with naming_variables(words):
            config, explicit = parse(words, defaults)
            check_given(expand_paths(config), explicit)  # most mistakes are found here, before torch is imported
            from .loop import run

            summary = run(config, explicit=explicit)
    except Stopped as end:
        if str(end):
            say(str(end))
        raise SystemExit(end.status) from None
    except (ConfigError, SpecError, DataError, RoundError, NonFiniteError) as error:
        end_with_mistake(error)
    if summary and not config.quiet:
        from rich.console import Console

        from fl.output.figures.run_data import read_phases
        from fl.output.summary_table import phase_table, summary_table

        Console().print(summary_table(summary))
        if phases := read_phases(Path(summary["folder"])):
            Console().print(phase_table(phases))


@contextlib.contextmanager
def naming_variables(argv: Sequence[str]) -> Iterator[None]:
    """A user's mistake in this block also names the LEANFED_... variables that set the options it speaks of."""
    try:
        yield
    except (ConfigError, SpecError, DataError) as error:
        files, rest = _split(argv)
        beaten = ["config"] if files else []
        for file in files:
            with contextlib.suppress(ConfigError):
                beaten += _read_file(file)
        flags = [word.removeprefix("--").removeprefix("no-") for word in rest if word.startswith("--")]
        starts = tuple(flag.partition("=")[0].replace("-", "_") for flag in flags)
        text = str(error)
        found = []
        for flag in dict.fromkeys(re.findall(r"--([a-z][\w-]*)", text)):
            name = flag.replace("-", "_")
            variable = f"{_PREFIX}_{name.upper()}"
            if variable in os.environ and variable not in text and name not in beaten and not name.startswith(starts):
                found.append(variable)
        if found:
            error.args = (f"{text} (set by {' and '.join(found)})",)
        raise


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files that the command line names, and its other words, which beat them wherever they stand."""
    files, rest, words = [], [], iter(argv)
    for word in words:
        if word.startswith("--config="):
            files.append(word.removeprefix("--config="))
        elif word == "--config" and (file := next(words, None)) is not None:
            files.append(file)
        else:
            rest.append(word)
    return files, rest


def _numbers(argv: Sequence[str]) -> list[str]:
    """The words of a command line, its numbers read as those of files are: 1:30 is none."""
    hints = get_type_hints(Config)
    found, words = [], iter(argv)
    for word in words:
        flag, equals, text = word.partition("=")
        wanted = flag.removeprefix("--").replace("-", "_")
        # argparse completes a beginning that only one option has.
        names = [wanted] if wanted in hints else [name for name in hints if name.startswith(wanted)]
        is_number = len(names) == 1 and bool({int, float} & {hints[names[0]], *get_args(hints[names[0]])})
        if not flag.startswith("--") or not is_number:
            found.append(word)
            continue
        following = [] if equals else list(islice(words, 1))
        if equals or (following and not following[0].startswith("--")):
            found.append(_word(names[0], text if equals else following[0]))
        else:  # argparse says what is missing
            found += [word, *following]
    return found


def _variables() -> dict[str, str | None]:
    """Options that the environment gives, by name: LEANFED_CONFIG's file, and what beats it."""
    file = os.environ.get(f"{_PREFIX}_CONFIG")
    names = [(field.name, f"{_PREFIX}_{field.name.upper()}") for field in dataclasses.fields(Config)]
    own = {name: os.environ[variable] for name, variable in names if variable in os.environ}
    return {**({} if file is None else _read_file(file)), **own}


def _read_file(name: str) -> dict[str, str | None]:
    """Options that a YAML or JSON file gives, by name, as they are written; ConfigError for what cannot be read."""
    known = [field.name for field in dataclasses.fields(Config)]
    found: dict[str, str | None] = {}
    try:
        values = load_yaml(expanded(name), texts=True)
        if not isinstance(values, dict):
            raise ConfigError("must hold options and their values, as in lr: 0.1")
        for key, value in values.items():
            option = str(key).replace("-", "_")
            if option == _SET_BY_LAUNCHERS:
                continue  # --print_config prints it
            if option not in known:
                raise ConfigError(no_such_option(str(key), known))
            if option in found:
                raise ConfigError(f"the option '{option}' is given twice; keep one of them")
            if isinstance(value, (dict, list)):
                raise ConfigError(f"{option} must have one value, not several")
            found[option] = value if value is None else str(value)
    except ConfigError as error:
        raise ConfigError(f"--config {name}: {error}") from None
    return found


def _word(name: str, text: str | None) -> str:
    """An option of a file or variable as a word of the command line; ConfigError for a number or a switch that is none."""
    kind, flag = get_type_hints(Config)[name], f"--{name.replace('_', '-')}"
    kinds = (str,) if get_origin(kind) is Literal else get_args(kind) or (kind,)
    value: Any = text
    if bool in kinds:
        value = _SWITCHES.get((text or "").lower())
    elif text is not None and {int, float} & set(kinds):
        value = parse_yaml(text) if re.fullmatch(r"[\w.+-]{1,400}", text) else text
        value = text if isinstance(value, bool) else value
    if not isinstance(value, (*kinds, int) if float in kinds else kinds):
        shown = "null" if text is None else text or "''"
        raise ConfigError(f"{flag} {shown} must be {_in_words(kind)}")
    if isinstance(value, bool):
        return flag if value else f"--no-{flag[2:]}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{flag}={value}".replace("inf", ".inf").replace("nan", ".nan")
    return f"{flag}={'null' if value is None else value}"


def _plain(values: Namespace) -> dict[str, Any]:
    return dict(values.items())


def _one_sentence(parser: ArgumentParser, text: str) -> str:
    """The library's message in the words of the options: which one, what it was, what would be right."""
    text = " ".join(text.split())
    names = [field.name for field in dataclasses.fields(Config)]
    wrong = re.search(r'Parser key "(\w+)": .*(?:Got|Given) value: ?(.*)$', text)
    if wrong and wrong[1] in names:
        kind = get_type_hints(Config)[wrong[1]]
        choices = [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []
        wanted = f"one of {', '.join(choices)}" if choices else _in_words(kind)
        hint = nearest(wrong[2], choices) if choices else ""
        return f"--{wrong[1].replace('_', '-')} {wrong[2]} must be {wanted}{hint if 'mean' in hint else ''}"
    for word in text.split():
        if word.startswith("--") and "nrecognized" in text:
            known = [flag for action in parser._actions for flag in action.option_strings]
            return no_such_option(word, known)
    return text


def _in_words(kind: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    return next((text for known, text in words.items() if known is kind or known in get_args(kind)), "text")


def _refuse_unknown_variables(parser: ArgumentParser) -> None:
    known = {f"{_PREFIX}_{action.dest.upper()}" for action in parser._actions} | _OTHER_VARIABLES
    for name in os.environ:
        if name.startswith(f"{_PREFIX}_") and name not in known:
            if (option := name.removeprefix(f"{_PREFIX}_").lower()) in MOVED:
                raise ConfigError(f"environment variable {name}: {no_such_option(option, ())}")
            options = sorted(variable.removeprefix(f"{_PREFIX}_") for variable in known)
            close = closest(name.removeprefix(f"{_PREFIX}_"), options)
            hint = f"; did you mean '{_PREFIX}_{close}'?" if close else "; --help lists the options"
            raise ConfigError(f"environment variable {name} names no option{hint}")
