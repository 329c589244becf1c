"""What a model keeps for itself, beside what is exchanged: for every client it begins anew."""

import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from fl.common.seeds import derive_seed

_VALUES = (type(None), bool, int, float, complex, str, bytes)
_CONTAINERS = (list, deque, set, dict, OrderedDict, defaultdict, Counter)
_TORCHS = frozenset(vars(nn.Module()))  # attributes that torch keeps itself

# How the state of a generator is read and written, and how it is seeded.
_GENERATORS: dict[type, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = {
    torch.Generator: (torch.Generator.get_state, torch.Generator.set_state, torch.Generator.manual_seed),
    random.Random: (random.Random.getstate, random.Random.setstate, random.Random.seed),
    np.random.RandomState: (
        np.random.RandomState.get_state,
        np.random.RandomState.set_state,
        lambda generator, seed: generator.seed(seed % 2**32),
    ),
    np.random.Generator: (
        lambda generator: generator.bit_generator.state,
        lambda generator, state: setattr(generator.bit_generator, "state", state),
        lambda generator, seed: setattr(generator.bit_generator, "state", type(generator.bit_generator)(seed).state),
    ),
}

Rewind = Callable[[], Any]


class OwnState:
    """Buffers and plain attributes of every module in `model`, as they are now, to `put_back` later.

    `exchanged`: names of buffers that are loaded by other means. Of attributes, tensors, arrays, numbers, texts, generators
    of random numbers, and lists, tuples, sets and dicts of these are put back, in place, and those that came later are
    taken away; parameters want gradients or not as at first. Other objects are left alone, and so are a tensor that shares
    its memory with a parameter or an exchanged buffer, a scripted module, and a layer that has no shape yet.
    """

    def __init__(self, model: nn.Module, exchanged: Collection[str] = ()) -> None:
        self._wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        loaded = [*model.parameters(), *(buffer for name, buffer in model.named_buffers() if name in exchanged)]
        taken = frozenset(_storage(tensor) for tensor in loaded) - {0}
        self._kept: list[tuple[MutableMapping[str, Any], frozenset[str], dict[str, tuple[Any, Rewind]]]] = []
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule | LazyModuleMixin):
                continue
            prefix = f"{path}." if path else ""
            others = frozenset(name for name in module._buffers if prefix + name in exchanged)
            for store, left in ((vars(module), _TORCHS), (module._buffers, others)):
                first: dict[str, tuple[Any, Rewind]] = {}
                for name in store.keys() - left:
                    rewind = _rewind(store[name], taken)
                    if rewind is not None:
                        first[name] = store[name], rewind
                self._kept.append((store, left | store.keys(), first))

    def put_back(self) -> None:
        """Everything is as it was when this object was made."""
        for parameter, wanted in self._wanted:
            parameter.requires_grad = wanted
        for store, left, first in self._kept:
            for name in store.keys() - left:
                if _rewind(store[name], frozenset()) is not None:
                    del store[name]
            for name, (value, rewind) in first.items():
                rewind()
                store[name] = value


def seed_generators(model: nn.Module, seed: int, purpose: str, *key: int) -> None:
    """Seed the generators of random numbers that modules of `model` keep in attributes, each with a seed of its own."""
    kept = (generator for module in model.modules() for generator in _generators(list(vars(module).values())))
    for count, generator in enumerate(kept):
        _GENERATORS[type(generator)][2](generator, derive_seed(seed, purpose, *key, count))


def _generators(value: Any) -> Iterator[Any]:
    if type(value) in _GENERATORS:
        yield value
    elif type(value) in _CONTAINERS or type(value) is tuple:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _generators(each)


def _rewind(value: Any, taken: frozenset[int]) -> Rewind | None:
    """What gives `value` its present content again; None for what is left alone."""
    if isinstance(value, _VALUES):
        return _nothing
    if isinstance(value, Tensor):
        return _rewind_tensor(value, taken)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        content = value.copy()
        return lambda: np.copyto(value, content) if value.flags.writeable else None
    if type(value) in _GENERATORS:
        read, write, _ = _GENERATORS[type(value)]
        state = read(value)
        return lambda: write(value, state)
    if type(value) in _CONTAINERS:
        held = dict(value) if isinstance(value, dict) else list(value)
        inner = _rewind_all(held.values() if isinstance(held, dict) else held, taken)
        return inner and (lambda: _refill(value, held, inner))
    return _rewind_all(value, taken) if type(value) is tuple else None


def _rewind_all(values: Iterable[Any], taken: frozenset[int]) -> Rewind | None:
    rewinds = [_rewind(value, taken) for value in values]
    known = [rewind for rewind in rewinds if rewind is not None]
    return (lambda: [rewind() for rewind in known]) if len(known) == len(rewinds) else None


def _rewind_tensor(tensor: Tensor, taken: frozenset[int]) -> Rewind | None:
    if not tensor.numel():
        return _nothing
    if isinstance(tensor, nn.Parameter) or not _storage(tensor) or _storage(tensor) in taken:
        return None
    content = tensor.detach().clone()
    return lambda: tensor.detach().copy_(content)


def _storage(tensor: Tensor) -> int:
    """What tensors that share their memory have in common; 0 for kinds that are left alone."""
    if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.device.type == "meta":
        return 0
    return tensor.untyped_storage()._cdata


def _refill(value: Any, held: Any, inner: Rewind) -> None:
    inner()
    value.clear()
    if isinstance(value, list | deque):
        value.extend(held)
    else:
        value.update(held)


def _nothing() -> None:
    """For what cannot change."""
