"""Collective calls on tensors of the double, on one rank: they go through gloo with what lies behind the tensors."""

import sys
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map

from tests.cuda_double.double import DEVICE, CudaTensor, inner
from tests.cuda_double.recorder import recorder


def collective(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operator of c10d."""
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
    if not all(isinstance(t, CudaTensor) for t in tensors):
        raise RuntimeError(f"{func}: tensors on the CPU and on a GPU in one call")
    if not all(t.is_contiguous() for t in tensors):
        raise RuntimeError("Tensors must be contiguous")
    recorder.kernel()
    known = {id(t.inner): t for t in tensors}  # type: ignore[attr-defined]
    for t in tensors:
        t.inner._outer = weakref.ref(t)  # type: ignore[attr-defined]
    out = func(*tree_map(inner, args), **tree_map(inner, kwargs))
    return tree_map(lambda value: known.get(id(value), value) if isinstance(value, Tensor) else value, out)


def _outer(value: Any) -> Any:
    """The tensor of the call whose inner one gloo hands back."""
    found = getattr(value, "_outer", None)
    return value if found is None else found() if found() is not None else CudaTensor(value)


def install() -> None:
    """NCCL is gloo from now on, and the future of a collective holds tensors of the double."""
    init, group, future = dist.init_process_group, dist.new_group, dist.Work.get_future

    def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
        return init("gloo" if "nccl" in str(backend) else backend, *args, **kwargs)

    def new_group(*args: Any, **kwargs: Any) -> Any:
        if "nccl" in str(kwargs.get("backend")):
            kwargs["backend"] = "gloo"
        return group(*args, **kwargs)

    def get_future(self: Any) -> Any:
        answer: Any = torch.futures.Future(devices=[DEVICE])
        future(self).then(lambda done: answer.set_result(tree_map(_outer, done.value())))
        return answer

    for module in (dist, sys.modules["torch.distributed.distributed_c10d"]):
        module.init_process_group, module.new_group = init_process_group, new_group  # type: ignore[attr-defined]
    dist.Work.get_future = get_future  # type: ignore[method-assign]
    dist.Logger.set_runtime_stats_and_log = lambda self: None  # type: ignore[attr-defined]  # asks for a timer of the GPU
