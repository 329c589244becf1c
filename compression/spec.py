"""The one small language for every option that takes parameters: `NAME[:ARG,...][,key=value...]`, joined by `+`.

topk:0.01,scope=layer+bf16   ->  Stage("topk", ("0.01",), {"scope": "layer"}), Stage("bf16", (), {})
"""

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

_JOIN = re.compile(r"\+(?=\s*[A-Za-z_])")  # not the plus of 1e+3
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")  # float() takes 1_0 and other digits too
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_PERCENT = re.compile(r"[0-9]+(\.[0-9]+)?%")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_LISTED = 12

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""`package.module:function`: how an option names code of the user's own."""


class SpecError(ValueError):
    """A specification that cannot be read; the message names the text and what would be right."""


@dataclass(frozen=True)
class Stage:
    """One stage of a specification: a name, its positional arguments, its named ones and its flags, all still text; and
    the text that it was read from, for messages."""

    name: str
    args: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text or self.name

    def expect(self, arguments: int, keys: Iterable[str] = (), *, example: str = "") -> "Stage":
        """This stage, after checking that it has so many arguments and no named ones but `keys`.

        `example`: a right specification, for the message.
        """
        if len(self.args) != arguments:
            right = f", as in {example}" if example else ""
            raise SpecError(f"'{self}': {self.name} takes {arguments} argument(s){right}, not {len(self.args)}")
        keys = tuple(keys)
        for key in self.options:
            if key not in keys:
                raise SpecError(f"'{self}': {self.name} has no option '{key}'{nearest(key, keys)}")
        return self

    def number(self, position: int, low: float, high: float, what: str) -> float:
        """Argument `position` as a number in [low, high]; `what` says in words what it is."""
        return self._number(self.args[position], low, high, what)

    def option(self, key: str, low: float, high: float) -> float:
        """The named argument `key` as a number in [low, high]."""
        return self._number(self.options[key], low, high, key)

    def _number(self, text: str, low: float, high: float, what: str) -> float:
        if not _NUMBER.fullmatch(text):
            hint = f"; did you mean {fraction(text)}?" if _PERCENT.fullmatch(text) else ""
            raise SpecError(f"'{self}': {what} must be a number, not '{text}'{hint}")
        value = float(text)
        if not low <= value <= high:
            raise SpecError(f"'{self}': {what} must lie between {low:g} and {high:g}, not {text}")
        return value

    def integer(self, place: int | str, low: int, what: str) -> int:
        """The argument at a position, or the one of a name, as a whole number of at least `low`."""
        text = self.options[place] if isinstance(place, str) else self.args[place]
        if not _WHOLE.fullmatch(text) or int(text) < low:
            raise SpecError(f"'{self}': {what} must be a whole number of at least {low}, not '{text}'")
        return int(text)


def fraction(percent: str) -> str:
    """'0.01' for '1%'."""
    return f"{float(percent.removesuffix('%')) / 100:.12g}"


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`, whatever the case of either; None if none is."""
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def nearest(word: str, known: Iterable[str]) -> str:
    """A tail for an error message: the nearest known word, or the list of them if that is not long."""
    known = list(known)
    close = closest(word, known)
    if close:
        return f"; did you mean '{close}'?"
    return f"; known: {', '.join(known)}" if 0 < len(known) <= _MOST_LISTED else ""


def parse_stage(text: str, flags: Collection[str] = ()) -> Stage:
    """Read one stage; SpecError if it is malformed. Words that are `flags` may stand anywhere behind the first argument."""
    head, colon, tail = text.strip().partition(":")
    head, comma, rest = head.partition(",")
    name = head.strip()
    if not _NAME.fullmatch(name):
        raise SpecError(f"'{text}': a specification starts with a name, as in NAME or NAME:NUMBER")
    words = [word.strip() for word in (rest + colon + tail if comma else tail).split(",")] if colon or comma else []
    args: list[str] = []
    options: dict[str, str] = {}
    found: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not word or (equals and not (key and value)):
            raise SpecError(f"'{text}': empty value after '{name}', where {name}:ARG,...,key=value would be right")
        if equals:
            if key in options:
                raise SpecError(f"'{text}': option '{key}' is given twice")
            if key in flags:
                raise SpecError(f"'{text}': '{key}' takes no value")
            options[key] = value
        elif args and (flag := closest(word, flags)):
            if word != flag or word in found:
                wrong = f"did you mean '{flag}', not '{word}'?" if word != flag else f"'{word}' is given twice"
                raise SpecError(f"'{text}': {wrong}")
            found.append(word)
        elif options:
            raise SpecError(f"'{text}': '{word}' must come before the named options")
        else:
            args.append(word)
    return Stage(name, tuple(args), options, tuple(found), text.strip())


def parse(text: str) -> tuple[Stage, ...]:
    """Read a whole specification: one stage or more, joined by `+`."""
    return tuple(parse_stage(part) for part in _JOIN.split(text))
