"""What an experiment is: the YAML file, read and checked before anything runs."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.spec import nearest
from fl.common.config import Config, no_such_option
from fl.common.errors import ConfigError
from fl.common.paths import expand_paths, expanded
from fl.common.yaml_file import load_yaml
from fl.run.checks import check_options
from fl.training.tasks import ACCURACY, SCORES, Score

from .options import REFUSED, plain_value

_KEYS = ("name", "description", "base", "vary", "arms", "seeds", "target")
_NEEDED = ("name", "base", "vary", "arms", "seeds")


@dataclass(frozen=True)
class Arm:
    """One way to run: `given` are all options that the file sets for it, `varied` those that `vary` lists."""

    name: str
    given: dict[str, Any]
    varied: dict[str, Any]

    @property
    def folder(self) -> str:
        """The arm's name as part of a folder's name."""
        return re.sub(r"[^A-Za-z0-9.=-]+", "_", self.name).strip("_")


@dataclass(frozen=True)
class Target:
    """A `value` of `score` on the validation split; or `minus` less than the final one of `arm`, mean over its seeds."""

    value: float | None = None
    score: Score = ACCURACY
    arm: str | None = None
    minus: float = 0.0


@dataclass(frozen=True)
class Experiment:
    """A checked experiment file."""

    name: str
    description: str
    base: dict[str, Any]
    vary: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    target: Target | None


def read_experiment(path: Path) -> Experiment:
    """Read and check the file; ConfigError says in one sentence which key is wrong and what would be right."""
    path = expanded(str(path))
    try:
        return parse_experiment(load_yaml(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_experiment(values: Any) -> Experiment:
    """Check the contents of an experiment file; ConfigError as `read_experiment`."""
    values = _mapping(values, "the file", "keys " + ", ".join(_NEEDED))
    _refuse_unknown(values, _KEYS, "the file has no key")
    for key in _NEEDED:
        if key not in values:
            raise ConfigError(f"the key '{key}' is missing; an experiment needs {', '.join(_NEEDED)}")
    name, description = values["name"], values.get("description", "")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]*", name):
        raise ConfigError(f"name {name!r} must be the name of a folder: letters, digits and . _ = - only")
    if not isinstance(description, str):
        raise ConfigError(f"description {description!r} must be text")
    base = _options(values["base"], "base")
    vary = _vary(values["vary"])
    arms = _arms(values["arms"], base, vary)
    target = _target(values["target"], arms) if "target" in values else None
    seeds = _seeds(values["seeds"])
    for arm in arms:
        try:  # with the lowest seed: --dp refuses 0
            check_options(config := expand_paths(Config(**arm.given, seed=min(seeds))), frozenset(arm.given))
        except ConfigError as error:
            raise ConfigError(f"arms, '{arm.name}': {error}") from None
        if target is not None and config.val_fraction == 0:
            raise ConfigError(f"arms, '{arm.name}': val_fraction 0 leaves no validation data, which target needs")
    return Experiment(name, description, base, vary, arms, seeds, target)


def _mapping(value: Any, where: str, wanted: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a mapping with {wanted}, not {value!r}")
    for key in value:
        if not isinstance(key, str):
            raise ConfigError(f"{where} has the key {key!r}, which is no text: write it in quotes")
    return value


def _refuse_unknown(given: Iterable[str], known: Iterable[str], where: str) -> None:
    known = tuple(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"{where} '{name}'{nearest(name, known)}")


def _check_names(names: Iterable[str], where: str) -> None:
    """Only options of a run, and none that the runner sets itself."""
    known = [field.name for field in dataclasses.fields(Config) if field.name not in REFUSED]
    for name in names:
        if name in REFUSED:
            raise ConfigError(f"{where} sets '{name}', which the runner sets itself: {REFUSED[name]}")
        if name not in known:
            raise ConfigError(f"{where}: {no_such_option(name, known)}")


def _options(value: Any, where: str) -> dict[str, Any]:
    options = _mapping(value, where, "options as in --help, with underscores ({} for none)")
    _check_names(options, where)
    return {name: plain_value(name, given) for name, given in options.items()}


def _vary(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"vary {value!r} must be a list of options, as in [uplink]")
    _check_names(value, "vary")
    for name in value:
        if value.count(name) > 1:
            raise ConfigError(f"vary lists '{name}' twice; keep one of them")
    return tuple(value)


def _arms(value: Any, base: dict[str, Any], vary: tuple[str, ...]) -> tuple[Arm, ...]:
    if not _mapping(value, "arms", "one entry per arm, as in dense: {uplink: none}"):
        raise ConfigError("arms {} must hold at least one arm, as in dense: {uplink: none}")
    arms: list[Arm] = []
    for name, given in value.items():
        own = _options(given, f"arms, '{name}'")
        for option, setting in own.items():
            if option not in vary:
                raise ConfigError(
                    f"arms, '{name}' sets {option} {setting!r}, but arms may differ only in what vary lists "
                    f"({', '.join(vary) or 'nothing'}): put it in base, or add it to vary"
                )
        both = {**base, **own}
        for option in vary:
            if option not in both:
                raise ConfigError(
                    f"arms, '{name}' does not set {option}, which vary lists: "
                    "set it in every arm, or in base for the arms that leave it out"
                )
        arm = Arm(name, both, {option: both[option] for option in vary})
        _refuse_twins(arm, arms)
        arms.append(arm)
    for option in vary:
        if len({repr(arm.varied[option]) for arm in arms}) == 1 and len(arms) > 1:
            raise ConfigError(
                f"vary lists '{option}', but it is {arms[0].varied[option]!r} in every arm: put it in base alone"
            )
    return tuple(arms)


def _refuse_twins(arm: Arm, others: Iterable[Arm]) -> None:
    if not arm.folder:
        raise ConfigError(f"arms, '{arm.name}' must have a letter or a digit in its name, to name a folder")
    for other in others:
        if Config(**other.given) == Config(**arm.given):
            raise ConfigError(f"arms, '{arm.name}' has the same options as '{other.name}': change or remove one")
        if other.folder.casefold() == arm.folder.casefold():
            raise ConfigError(f"arms, '{arm.name}' and '{other.name}' would share the folder {arm.folder}: rename one")


def _seeds(value: Any) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
    if not whole or not value:
        raise ConfigError(f"seeds {value!r} must be a list of whole numbers of at least 0, as in [0, 1, 2]")
    if len(set(value)) < len(value):
        raise ConfigError(f"seeds {value!r} must all be different")
    return tuple(value)


def _target(value: Any, arms: tuple[Arm, ...]) -> Target:
    target = _mapping(value, "target", "val_accuracy, val_r2 or val_bits_per_byte, or with arm and minus")
    scores = {score.columns[0]: score for score in SCORES.values()}
    _refuse_unknown(target, (*scores, "arm", "minus"), "target has no key")
    for key, score in scores.items():
        if set(target) == {key}:
            return Target(_fraction(target, key, score.most), score)
    if set(target) != {"arm", "minus"}:
        raise ConfigError(f"target {value!r} must have either {' or '.join(scores)}, or both arm and minus")
    names = [arm.name for arm in arms]
    if target["arm"] not in names:
        raise ConfigError(f"target: there is no arm {target['arm']!r}{nearest(str(target['arm']), names)}")
    return Target(arm=target["arm"], minus=_fraction(target, "minus"))


def _fraction(values: Mapping[str, Any], key: str, most: float | None = 1.0) -> float:
    value = values[key]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if most is None:
        if not is_number or not 0 < value < math.inf:
            raise ConfigError(f"target: {key} {value!r} must be a number above 0, as in 2.5")
        return float(value)
    if not is_number or not 0 <= value <= 1:
        raise ConfigError(f"target: {key} {value!r} must be a fraction between 0 and 1, as in 0.65")
    return float(value)
