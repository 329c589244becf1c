"""Optimizers, modes of dispatch and formulas of shapes without torch's compiler, whose import takes longer than torch's own.

Much in torch is decorated for the case that somebody compiles it, and the decorator imports the compiler when it is called.
"""

import contextlib
import inspect
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch._decomp
import torch._refs
import torch._refs.nn.functional
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode


class EagerOptimizer(Optimizer):
    """Does what torch's own class does, to the bit; a subclass whose `step` is torch's unwraps that itself."""

    add_param_group: Any = inspect.unwrap(Optimizer.add_param_group)
    load_state_dict: Any = inspect.unwrap(Optimizer.load_state_dict)
    state_dict: Any = inspect.unwrap(Optimizer.state_dict)
    zero_grad: Any = inspect.unwrap(Optimizer.zero_grad)


class EagerMode(TorchDispatchMode):
    """A mode whose `__torch_dispatch__` torch calls as it is."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


@contextlib.contextmanager
def eager_shapes() -> Iterator[None]:
    """In this block torch's own formulas of the shapes that come out of operators are called as they are."""
    marked = []
    if "torch._dynamo" not in sys.modules:
        for module in (torch._refs, torch._refs.nn.functional, torch._decomp.decompositions):
            for function in _decorated(module):
                if not hasattr(function, _MARK):
                    setattr(function, _MARK, function)
                    marked.append(function)
    try:
        yield
    finally:
        for function in marked:
            delattr(function, _MARK)


_MARK = "__dynamo_disable"  # where torch keeps what its compiler made of a function that is not to be compiled


def _decorated(module: ModuleType) -> Iterator[FunctionType]:
    """What `torch._disable_dynamo` decorates in this module, under other decorators or not."""
    decorator = torch._disable_dynamo(lambda: None).__code__
    functions = [value for value in vars(module).values() if isinstance(value, FunctionType)]
    while functions:
        outer = functions.pop()
        inner = [cell.cell_contents for cell in outer.__closure__ or () if isinstance(cell.cell_contents, FunctionType)]
        if outer.__code__ is decorator:
            yield from inner
        functions += inner
