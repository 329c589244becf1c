"""First weights from a safetensors file (`--init`)."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fl.common.errors import ConfigError
from fl.common.names import readable
from fl.common.tensor_files import read_tensors


def check_weights(path: str) -> None:
    """ConfigError unless `path` is a safetensors file; its header is enough to tell."""
    if not Path(path).is_file():
        raise ConfigError(f"--init '{path}' is no file, or does not exist; name a safetensors file")
    try:
        if readable(path) != path:  # which the library cannot open
            read_tensors(Path(path))
            return
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"--init '{path}' is not a safetensors file ({error})") from None


def load_weights(model: nn.Module, path: str) -> None:
    """Copy the tensors of a safetensors file into the parameters and buffers of the same names, in place.

    Values are converted to the model's types. ConfigError, naming the first, if a tensor is missing, unexpected, of another
    shape or kind of number, or not finite; the model is unchanged then.
    """
    check_weights(path)
    given, wanted = read_tensors(Path(path)), model.state_dict()
    faults = [(name, "is missing from it") for name in wanted.keys() - given.keys()]
    faults += [(name, "is not in the model") for name in given.keys() - wanted.keys()]
    faults += [
        (name, fault)
        for name in wanted.keys() & given.keys()
        if (fault := _fault(given[name], wanted[name])) is not None
    ]
    if faults:
        name, what = min(faults)
        more = f" ({len(faults)} tensors do not fit)" if len(faults) > 1 else ""
        raise ConfigError(f"--init '{path}' does not fit the model: '{name}' {what}{more}")
    model.load_state_dict(given)


def _fault(given: Tensor, wanted: Tensor) -> str | None:
    """Why a tensor of the file cannot take the place of the model's; None if it can."""
    if given.shape != wanted.shape:
        return f"has shape {list(given.shape)}, the model's {list(wanted.shape)}"
    if given.is_complex() or given.is_floating_point() != wanted.is_floating_point():
        return f"holds {given.dtype}, the model's {wanted.dtype}"
    if wanted.is_floating_point() and not bool(given.to(wanted.dtype).isfinite().all()):
        return f"holds NaN, infinity, or numbers beyond {wanted.dtype}"
    return None
