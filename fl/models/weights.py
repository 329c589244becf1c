"""First weights from a safetensors file (`--init`)."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from fl.common.errors import ConfigError


def check_weights(path: str) -> None:
    """ConfigError unless `path` is a safetensors file; only its header is read."""
    if not Path(path).is_file():
        raise ConfigError(f"--init '{path}' does not exist; name a safetensors file")
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"--init '{path}' is not a safetensors file ({error})") from None


def load_weights(model: nn.Module, path: str) -> None:
    """Copy the tensors of a safetensors file into the parameters and buffers of the same names, in place.

    Values are converted to the model's types. ConfigError, naming the first, if a tensor is missing, unexpected or
    of another shape; the model is unchanged then.
    """
    check_weights(path)
    given, wanted = load_file(path), model.state_dict()
    faults = [(name, "is missing from it") for name in wanted.keys() - given.keys()]
    faults += [(name, "is not in the model") for name in given.keys() - wanted.keys()]
    faults += [
        (name, f"has shape {list(given[name].shape)}, the model's {list(wanted[name].shape)}")
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name].shape
    ]
    if faults:
        name, what = min(faults)
        more = f" ({len(faults)} tensors do not fit)" if len(faults) > 1 else ""
        raise ConfigError(f"--init '{path}' does not fit the model: '{name}' {what}{more}")
    model.load_state_dict(given)
