"""Whether a run that goes on has the samples and the model that it began with; and all ranks the same samples."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .errors import ConfigError, DataError
from .federation import Federation

_LOOKED_AT = 1000


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


def refuse_other_samples(federation: Federation, folder: Path, digest: str) -> None:
    """ConfigError if the run in `folder` was begun with samples of another digest."""
    path = folder / "partition.json"
    stored = json.loads(path.read_text()).get("samples_sha256") if path.is_file() else None
    if stored not in (None, digest):
        config = federation.config
        raise ConfigError(
            f"--resume {config.resume}: --dataset {config.dataset} no longer has the samples with which {folder} was begun: "
            "bring them back, or start a new run"
        )


def refuse_other_model(federation: Federation, state: Mapping[str, Tensor]) -> None:
    """ConfigError if the tensors of a checkpoint do not have the model's sizes."""
    config, model = federation.config, federation.state
    for name, own in (("parameters", model.parameters), ("buffers", model.buffers)):
        if state[name].numel() != own.numel():
            raise ConfigError(
                f"--resume {config.resume}: --model {config.model} has {own.numel()} {name} now, the checkpoint has "
                f"{state[name].numel()}: start a new run"
            )
