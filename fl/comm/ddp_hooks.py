"""Any DistributedDataParallel communication hook, and the bytes of its collective calls.

    torch.distributed.algorithms.ddp_comm_hooks.default_hooks:fp16_compress_hook
    torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook:powerSGD_hook,matrix_approximation_rank=4
    my.module:make_hook

The function is a hook, called as hook(state, bucket) with state None, or one without parameters that returns
(state, hook). PyTorch's PowerSGD gets a PowerSGDState; what stands after the comma are its arguments.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist
import yaml
from torch import Tensor

from compression.ddp.hooks import Traffic
from fl.common.errors import ConfigError
from fl.common.plugin import load_function

Hook = Callable[[Any, Any], Any]
# Its own default compresses only after 1,000 iterations: a short run would be dense throughout.
_POWERSGD = {"matrix_approximation_rank": 1, "start_powerSGD_iter": 2}


def check_hook(text: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that `text` names and its arguments; ConfigError if there is none."""
    path, *words = text.split(",")
    arguments = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--hook {text}: '{word}' must have the form key=value")
        arguments[key] = yaml.safe_load(value)
    found = load_function("--hook", path)
    maker = _power_sgd_state(found) or found
    if arguments and maker is found and _is_hook(found):
        raise ConfigError(f"--hook {text}: only powerSGD_hook and functions that make a hook take arguments")
    if not _is_hook(maker):
        try:
            inspect.signature(maker).bind(**({"process_group": None} if maker is not found else {}), **arguments)
        except TypeError as error:
            raise ConfigError(f"--hook {text}: {error}") from None
    return found, arguments


def load_hook(text: str) -> tuple[Any, Hook]:
    """The state and the hook that `text` names; ConfigError if there is none. The process group must exist."""
    found, arguments = check_hook(text)
    if not _is_hook(found):
        return found(**arguments)
    make_state = _power_sgd_state(found)
    if make_state is None:
        return None, found
    try:
        return make_state(process_group=None, **{**_POWERSGD, **arguments}), found
    except ValueError as error:
        raise ConfigError(f"--hook {text}: {error}") from None


def _is_hook(function: Callable[..., Any]) -> bool:
    return "bucket" in inspect.signature(function).parameters


def _power_sgd_state(function: Callable[..., Any]) -> Callable[..., Any] | None:
    named = getattr(function, "__name__", "") == "powerSGD_hook"
    return getattr(inspect.getmodule(function), "PowerSGDState", None) if named else None


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in ([tensors] if isinstance(tensors, Tensor) else tensors))


def _broadcast(given: dict[str, Any]) -> tuple[int, int]:
    group, own = given.get("group"), dist.get_rank()
    source = given.get("src")
    if source is None:
        source, own = given.get("group_src"), dist.get_rank(group)
    return (_bytes(given["tensor"]), 0) if source == own else (0, _bytes(given["tensor"]))


def _all_reduce(given: dict[str, Any]) -> tuple[int, int]:
    size = _bytes(next(iter(given.values())))
    return size, size


def _all_gather(given: dict[str, Any]) -> tuple[int, int]:
    output, own, *_ = given.values()
    return _bytes(own), _bytes(output) - _bytes(own)


def _scattered(given: dict[str, Any]) -> tuple[int, int]:
    _, whole, *_ = given.values()
    own = _bytes(whole) // dist.get_world_size(given.get("group"))
    return _bytes(whole) - own, _bytes(whole) - own


# Each rule takes a call's arguments by name, in the order of the function's parameters, and returns (sent, received).
_RULES: dict[str, Callable[[dict[str, Any]], tuple[int, int]]] = {
    "broadcast": _broadcast,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "all_gather_into_tensor": _all_gather,
    "all_gather_single": _all_gather,
    "reduce_scatter": _scattered,
    "reduce_scatter_tensor": _scattered,
    "reduce_scatter_single": _scattered,
    "all_to_all": _scattered,
    "all_to_all_single": _scattered,
}


@contextlib.contextmanager
def count_collectives() -> Iterator[Traffic]:
    """Count the bytes handed to and got from torch.distributed's collective calls, from any thread, in this block.

    An all-reduce counts its tensor once each way; how a backend carries it out (a ring sends 2 (W - 1) / W of it) is not
    seen at the call. Point-to-point calls are not counted.
    """
    traffic = Traffic()
    originals = {name: getattr(dist, name) for name in _RULES if hasattr(dist, name)}

    def counted(name: str) -> Callable[..., Any]:
        original, rule = originals[name], _RULES[name]
        signature = inspect.signature(original)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            sent, received = rule(signature.bind(*args, **kwargs).arguments)
            traffic.sent_bytes += sent
            traffic.received_bytes += received
            return original(*args, **kwargs)

        return call

    for name in originals:
        setattr(dist, name, counted(name))
    try:
        yield traffic
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
