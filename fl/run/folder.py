"""Which run folder a run writes to, and which one it goes on with, if its samples, files and model are the same."""

import contextlib
import dataclasses
import hashlib
import itertools
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fl.common.config import Config, refuse_stored_code, stored_options
from fl.common.errors import ConfigError, DataError
from fl.common.files import disk_told, read_json
from fl.common.paths import paths_in
from fl.common.ranks import Ranks
from fl.output.checkpoint import saved_rounds
from fl.training.worker import Worker

from .lock import only_writer, writer

_WRITTEN = (".csv", ".json", ".log", ".safetensors", ".png", ".html")

FREE = frozenset(
    {
        *("resume", "run_name", "output_dir", "data_dir", "cache_dir", "download", "device", "quiet"),
        *("checkpoint_every", "tensorboard", "track", "hang_timeout", "state_budget", "figures", "profile"),
    }
)
"""Options in which two runs that count as the same may differ, and a run that goes on from how it began."""


def continue_options(config: Config, explicit: frozenset[str]) -> tuple[Config, Path | None]:
    """The options to run with, and the folder to continue, if `--resume` names one that has a checkpoint.

    A continued run keeps its stored options; what the user gives anew must agree with them, except for the number of
    rounds and what cannot change a result. ConfigError names the first option that does not.
    """
    if config.resume is None:
        return config, None
    auto = config.resume == "auto"
    folder = Path(config.output_dir) / (config.run_name or "") if auto else Path(config.resume).resolve()
    saved = saved_rounds(folder)
    if not saved:
        if auto and (folder / "summary.json").exists():
            raise ConfigError(f"--resume auto: {folder} holds a finished run without checkpoints; choose another name")
        if auto:
            return config, None
        raise ConfigError(f"--resume {config.resume}: there is no checkpoint in {folder / 'checkpoints'}")
    _refuse_strange(folder)
    place = {"run_name": folder.name, "output_dir": str(folder.parent)}
    try:
        stored = stored_options(folder)
    except ConfigError as error:
        raise ConfigError(f"--resume {config.resume}: {error}") from None
    if stored.hook is not None:
        raise ConfigError(
            f"--resume {config.resume}: {folder} was run with --hook {stored.hook}, whose state cannot be saved; "
            "start a new run"
        )
    changes: dict[str, Any] = {"cache_dir": None}  # a folder that only the run folder names is not written to
    for name in sorted(explicit):
        given, kept = getattr(config, name), getattr(stored, name)
        if name in FREE or name == "rounds":  # more of them may follow
            changes[name] = given
        elif given != kept and given != "auto":
            raise ConfigError(
                f"--{name.replace('_', '-')} {given} differs from {kept}, with which {folder} was begun: "
                "leave it out, or start a new run"
            )
    refuse_stored_code(folder, stored, {name: getattr(config, name) for name in explicit})
    if "data_dir" not in changes and config.data_dir != stored.data_dir:
        changes.setdefault("download", False)  # a folder that the user has not named is only read
    finished = saved[-1]
    if changes.get("rounds", finished) + stored.finetune_rounds < finished:
        raise ConfigError(f"--rounds {config.rounds} must be at least {finished}: {folder} has so many rounds already")
    depends = (
        "the cosine schedule"
        if stored.lr_schedule.startswith("cosine")
        else "fine-tuning"
        if stored.finetune_rounds
        else ""
    )
    if changes.get("rounds", stored.rounds) != stored.rounds and depends:
        raise ConfigError(
            f"--rounds {config.rounds} differs from {stored.rounds}, on which {depends} of {folder} depends: "
            "leave it out, or start a new run"
        )
    return dataclasses.replace(stored, **{**changes, **place, "resume": config.resume}), folder


def _refuse_strange(folder: Path) -> None:
    """ConfigError for what is no file where the run will write one: a link would lead out of the folder, a pipe nowhere."""
    checkpoints = folder / "checkpoints"
    if checkpoints.is_symlink():
        raise ConfigError(f"--resume {folder}: {checkpoints} is a link, and must be a folder of its own")
    for path in (*folder.iterdir(), *checkpoints.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # rank 0 has deleted an old checkpoint since
            if path.suffix in _WRITTEN and not stat.S_ISREG(path.lstat().st_mode):
                raise ConfigError(
                    f"--resume {folder}: {path} is no file of its own, but a link, a folder, a pipe or a device"
                )


def create_folder(config: Config, ranks: Ranks) -> tuple[Path, str]:
    """Make the folder of a new run; collective. Returns it and its name. ConfigError if it exists already.

    `--resume auto` takes over a folder that has no checkpoint yet.
    """
    name = ranks.share_json(lambda: _make(config))
    return Path(config.output_dir) / name, name


def _make(config: Config) -> str:
    second = int(time.time())
    for before in itertools.count():
        name = _name(config, second, before)
        folder = Path(config.output_dir) / name
        try:
            folder.mkdir(parents=True, exist_ok=config.resume == "auto")
            return name
        except FileExistsError:
            # Jobs of an array start in the same second: each takes the next name that is free.
            if config.run_name is None:
                continue
            used = writer(folder)
            raise ConfigError(
                f"--run-name {name}: {folder} exists; choose another name, or --resume auto to go on with it"
                if used is None
                else f"--run-name {name}: {used} writes to {folder}; choose another name"
            ) from None
        except OSError:
            raise ConfigError(f"--output-dir {config.output_dir}: cannot create a folder there") from None
    raise AssertionError("there is always another name")


@contextlib.contextmanager
def locked(folder: Path | None, ranks: Ranks, *, is_new: bool = False) -> Iterator[None]:
    """In this block no other process writes to the run folder, if there is one; collective. ConfigError if one does, or
    if one has since this process found no run there (`is_new`). DiskError if, in the block, the folder cannot be used.
    """
    if folder is None:
        ranks.share_json(lambda: None)
        yield
        return

    def lock() -> None:
        held.enter_context(only_writer(folder))
        if is_new and ((folder / "summary.json").exists() or saved_rounds(folder)):
            raise ConfigError(f"another process has begun {folder} in the meantime; give the command again")

    def remedy() -> str:
        is_begun = saved_rounds(folder)
        return f"--resume {folder} goes on after the last checkpoint" if is_begun else "begin the run again"

    with disk_told(folder, remedy), contextlib.ExitStack() as held:
        ranks.share_json(lock)
        yield


def _name(config: Config, second: int, before: int) -> str:
    """--run-name, or a name made from the options and the time."""
    if config.run_name is not None:
        return config.run_name
    words = re.sub(r"[^A-Za-z0-9.=-]+", "_", f"{config.dataset}-{config.model}-{config.uplink}-{config.server}")
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(second))
    return f"{words[:200]}-{stamp}" + (f"-{before + 1}" if before else "")


_LOOKED_AT = 1000


_STEERING = ("sampling", "capabilities", "profiles", "deepspeed_config")


_FIRST_WEIGHTS = "init.safetensors"


def samples_sha256(worker: Worker) -> str:
    """A digest of every split's size, of all its targets, of some thousand of its inputs, evenly spaced, and of who holds
    which; the same on every rank. Collective; DataError if ranks have different samples.
    """
    found = hashlib.sha256()
    splits = (worker.train, worker.rows), (worker.validation, None), (worker.test, None)
    for split, rows in splits:
        at = torch.arange(len(split)) if rows is None else rows
        _add(found, split.x[at[:: max(1, len(at) // _LOOKED_AT)]])
        _add(found, split.y[at])
    for part in (*worker.parts, *worker.held):
        _add(found, torch.searchsorted(worker.rows, part))
    if not worker.parts:
        _add(found, torch.tensor(worker.sizes))
    digest = found.hexdigest()
    if not worker.ranks.all_agree(int(digest[:12], 16)):
        name = worker.config.dataset
        raise DataError(f"--dataset {name}: ranks read different samples; all must see the same files")
    return digest


def _add(found: "hashlib._Hash", tensor: Tensor) -> None:
    found.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    found.update(tensor.cpu().numpy().tobytes())


def begun_with(folder: Path) -> dict[str, Any]:
    """What partition.json says of the run's beginning; empty without such a file. ConfigError if it is damaged."""
    path = folder / "partition.json"
    try:
        found = read_json(path) if path.is_file() else {}
        kinds = {"samples_sha256": str, "files_sha256": dict}
        wrong = [name for name, kind in kinds.items() if name in found and not isinstance(found[name], kind)]
        if not isinstance(found, dict) or wrong:
            raise ValueError(f"it holds no {' and '.join(wrong) or 'JSON object'}")
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"--resume {folder}: {path} is damaged ({error}): bring it back, or start a new run"
        ) from None
    return found


def refuse_other_samples(worker: Worker, folder: Path, digest: str) -> None:
    """ConfigError if the run in `folder` was begun with samples of another digest."""
    if begun_with(folder).get("samples_sha256") not in (None, digest):
        config = worker.config
        raise ConfigError(
            f"--resume {config.resume}: --dataset {config.dataset} no longer has the samples with which {folder} was begun: "
            "bring them back, or start a new run"
        )


def files_sha256(config: Config) -> dict[str, str]:
    """Digests of the files that options name and that steer every round, by option."""
    paths = paths_in(config)
    steering = [name for name in _STEERING if name in paths and paths[name].is_file()]
    return {name: hashlib.sha256(paths[name].read_bytes()).hexdigest() for name in steering}


def refuse_other_files(config: Config, folder: Path) -> None:
    """ConfigError if a file that an option names has changed, or is gone, since the run in `folder` was begun."""
    now = files_sha256(config)
    for name, digest in begun_with(folder).get("files_sha256", {}).items():
        if now.get(name) != digest:
            option = f"--{name.replace('_', '-')} {getattr(config, name)}"
            raise ConfigError(
                f"--resume {config.resume}: {option} no longer holds what it did when {folder} was begun: bring it back, "
                "or start a new run"
            )


def lasting_options(config: Config) -> dict[str, Any]:
    """The options that a run keeps to its end, by name."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in FREE | {"rounds"}}


def refuse_other_options(config: Config, folder: Path, saved: Mapping[str, Any]) -> None:
    """ConfigError if config.json no longer says what it did when these options were saved with a checkpoint."""
    for name, value in lasting_options(config).items():
        if name in saved and saved[name] != value:
            raise ConfigError(
                f"--resume {folder}: {folder / 'config.json'} has {name} {value}, the checkpoint was made with "
                f"{saved[name]}: bring the file back as it was, or start a new run"
            )


def keep_first_weights(config: Config, folder: Path) -> None:
    """Copy the file of `--init` into the run folder: masks and rewinding go by it also when the run goes on."""
    if config.init is not None:
        shutil.copyfile(config.init, folder / _FIRST_WEIGHTS)


def with_first_weights(config: Config, folder: Path | None) -> Config:
    """`config` with the run's own copy of the `--init` file, if the run in `folder` has one."""
    if config.init is None or folder is None or not (folder / _FIRST_WEIGHTS).is_file():
        return config
    return dataclasses.replace(config, init=str(folder / _FIRST_WEIGHTS))


def refuse_other_model(worker: Worker, state: Mapping[str, Tensor]) -> None:
    """ConfigError if the tensors of a checkpoint do not have the model's sizes."""
    config, model = worker.config, worker.state
    for name, own in (("parameters", model.parameters), ("buffers", model.buffers)):
        if state[name].numel() != own.numel():
            raise ConfigError(
                f"--resume {config.resume}: --model {config.model} has {own.numel()} {name} now, the checkpoint has "
                f"{state[name].numel()}: start a new run"
            )
