"""Whether a run that goes on has the samples, files and model that it began with; and all ranks the same samples."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fl.common.config import Config
from fl.common.errors import ConfigError, DataError
from fl.common.paths import paths_in
from fl.training.worker import Federation

_LOOKED_AT = 1000
_STEERING = ("sampling", "capabilities", "profiles", "deepspeed_config")
_FIRST_WEIGHTS = "init.safetensors"


def samples_sha256(federation: Federation) -> str:
    """A digest of every split's size, of all its targets, of some thousand of its inputs, evenly spaced, and of who holds
    which; the same on every rank. Collective; DataError if ranks have different samples.
    """
    found = hashlib.sha256()
    for split in (federation.train, federation.validation, federation.test):
        _add(found, split.x[:: max(1, len(split) // _LOOKED_AT)])
        _add(found, split.y)
    for part in (*federation.parts, *federation.held):
        _add(found, part)
    digest = found.hexdigest()
    if not federation.ranks.all_agree(int(digest[:12], 16)):
        name = federation.config.dataset
        raise DataError(f"--dataset {name}: ranks read different samples; all must see the same files")
    return digest


def _add(found: "hashlib._Hash", tensor: Tensor) -> None:
    found.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    found.update(tensor.cpu().numpy().tobytes())


def begun_with(folder: Path) -> dict[str, Any]:
    """What partition.json says of the run's beginning; empty without such a file. ConfigError if it is damaged."""
    path = folder / "partition.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(
            f"--resume {folder}: {path} is damaged ({error}): bring it back, or start a new run"
        ) from None
    return found


def refuse_other_samples(federation: Federation, folder: Path, digest: str) -> None:
    """ConfigError if the run in `folder` was begun with samples of another digest."""
    if begun_with(folder).get("samples_sha256") not in (None, digest):
        config = federation.config
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


def keep_first_weights(config: Config, folder: Path) -> None:
    """Copy the file of `--init` into the run folder: masks and rewinding go by it also when the run goes on."""
    if config.init is not None:
        shutil.copyfile(config.init, folder / _FIRST_WEIGHTS)


def with_first_weights(config: Config, folder: Path | None) -> Config:
    """`config` with the run's own copy of the `--init` file, if the run in `folder` has one."""
    if config.init is None or folder is None or not (folder / _FIRST_WEIGHTS).is_file():
        return config
    return dataclasses.replace(config, init=str(folder / _FIRST_WEIGHTS))


def refuse_other_model(federation: Federation, state: Mapping[str, Tensor]) -> None:
    """ConfigError if the tensors of a checkpoint do not have the model's sizes."""
    config, model = federation.config, federation.state
    for name, own in (("parameters", model.parameters), ("buffers", model.buffers)):
        if state[name].numel() != own.numel():
            raise ConfigError(
                f"--resume {config.resume}: --model {config.model} has {own.numel()} {name} now, the checkpoint has "
                f"{state[name].numel()}: start a new run"
            )
