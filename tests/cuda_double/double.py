"""A test double of one CUDA GPU, for a PyTorch that has none: tensors that say `cuda:0` and compute on the CPU.

It refuses what a GPU refuses: operations on tensors of two devices, `.numpy()`, a generator of the CPU, fused optimizers
on tensors of several strides. It counts kernels, and what makes the host wait: reading a number, copies from and to
ordinary memory, `nonzero`, indexing by a mask, a number assigned at an index. A quotient by a number is the product with
its rounded inverse where `INEXACT` says so, as on a GPU. It cannot show cuDNN, rounding, asynchrony, speed or memory.

`install` changes this process for good: only the tests' own children call it.
"""

import contextlib
import ctypes
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map

from tests.cuda_double.recorder import recorder

DEVICE = torch.device("cuda", 0)
INEXACT = False
_aten = torch.ops.aten

_NO_KERNEL = {
    *("detach", "alias", "lift_fresh", "_reshape_alias", "is_pinned"),
    *("empty_like", "new_empty", "new_empty_strided"),
}
_WAITS = {
    **dict.fromkeys(("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"), 1),
    "bincount": 2,  # for the largest number and the least one
}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_COPIES = {"copy_", "_to_copy", "_foreach_copy_"}


class CudaTensor(Tensor):
    """A tensor on the double whose numbers are those of `inner`, a tensor on the CPU that views share memory with."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "CudaTensor":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    def data_ptr(self) -> int:
        """The address, for alignment."""
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """The memory, which views share."""
        return self.inner.untyped_storage()

    def tolist(self) -> Any:
        """As Tensor.tolist, which refuses subclasses."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """As of a tensor on a GPU."""
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")
        return self.detach().cpu().numpy()

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def record_stream(self, stream: Any) -> None:
        """Memory is never given away too early here."""

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.inner.detach()})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and not self.dim() else str(self)

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        """As Tensor.data."""
        return self.detach()

    @data.setter
    def data(self, other: "CudaTensor") -> None:
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.inner = other.inner


def inner(value: Any) -> Any:
    """The tensor on the CPU behind one on the double; other values as they are."""
    return value.inner if isinstance(value, CudaTensor) else value


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operator on what lies behind its arguments, after the checks that a GPU makes."""
    if func.namespace == "c10d":
        from tests.cuda_double.collectives import collective

        return collective(func, args, kwargs)
    name = func._schema.name.partition("::")[2]
    tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
    own = [t for t in tensors if isinstance(t, CudaTensor)]
    _refuse(func, name, args, kwargs, tensors)
    target = kwargs.get("device")
    stays = target is None or torch.device(target).type == "cuda"
    view = func.is_view or name in _NO_KERNEL
    if not view:
        recorder.kernel()
    _count_waits(name, args, kwargs, leaves=not stays and torch.device(target).type == "cpu")
    known = {id(t.inner): t for t in own}
    inner_args, inner_kwargs = tree_map(inner, (args, dict(kwargs)))
    if target is not None and stays:
        inner_kwargs["device"] = torch.device("cpu")
    out = _inexact_quotient(func, args) if name in ("div", "div_") and len(args) == 2 and not kwargs else None
    if out is None:
        random = torch.Tag.nondeterministic_seeded in func.tags
        with _own_generator() if random else contextlib.nullcontext():
            out = func(*inner_args, **inner_kwargs)
    for t in own if func._schema.is_mutable else ():
        if t.inner.shape != t.shape or t.inner.stride() != t.stride():  # resized by `out=`, or a view made in place
            t.data = CudaTensor(t.inner)

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor) or (not stays and id(value) not in known):
            return value
        if id(value) in known:
            return known[id(value)]
        return value if any(value is t for t in tensors) else CudaTensor(value)

    return tree_map(wrap, out)


def _refuse(func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
    if any(isinstance(value, torch.Generator) for value in tree_iter((args, kwargs))):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if name.startswith("_fused_"):
        _refuse_strides(name, args)
    hosts = [t for t in tensors if not isinstance(t, CudaTensor)]
    if name in _COPIES or not hosts or not any(isinstance(t, CudaTensor) for t in tensors):
        return
    if name in _INDEXED and isinstance(args[0], CudaTensor):
        hosts = [
            t for t in args[2:3] if not isinstance(t, CudaTensor)
        ]  # indices may lie on the CPU, at the price of a wait
    elif name in _INDEXED:
        raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    if any(t.dim() for t in hosts) or (hosts and name.startswith("_foreach")):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found cpu and cuda:0! ({func})")


def _refuse_strides(name: str, args: Any) -> None:
    lists = [each for each in args if isinstance(each, (list, tuple)) and each and isinstance(each[0], Tensor)]
    for group in zip(*(each for each in lists if len(each) == len(lists[0])), strict=True):
        strides = {tuple(s for s, n in zip(t.stride(), t.shape, strict=True) if n != 1) for t in group if t.dim()}
        if len(strides) > 1:
            raise RuntimeError(f"{name}: params and grads must have same dtype, device, and layout")


def _count_waits(name: str, args: Any, kwargs: Any, *, leaves: bool) -> None:
    blocking = not kwargs.get("non_blocking", False) and not (name == "copy_" and len(args) > 2 and args[2])
    if name in _WAITS:
        recorder.wait(name, _WAITS[name])
    elif name == "repeat_interleave" and kwargs.get("output_size") is None:
        recorder.wait(name)
    elif name in _INDEXED:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        number = len(args) > 2 and not isinstance(args[2], CudaTensor)
        if masks and not (number and len(masks) == 1):  # that one is a masked_fill
            recorder.wait("indexing by a mask", len(masks))
        if any(not isinstance(index, CudaTensor) for index in indices):
            recorder.wait("an index on the CPU")
        if number and not masks:
            recorder.wait("a number put at an index")
    elif name == "_to_copy" and leaves:
        assert blocking, "a copy to the host that nobody waits for"
        recorder.wait("copy to the host")
    elif name in ("copy_", "_foreach_copy_"):
        pairs = zip(*(each if isinstance(each, (list, tuple)) else [each] for each in args[:2]), strict=True)
        for to, source in pairs:
            if isinstance(to, CudaTensor) != isinstance(source, CudaTensor) and blocking:
                recorder.wait("copy to the device" if isinstance(to, CudaTensor) else "copy to the host")


def _inexact_quotient(func: Any, args: Any) -> Any:
    x, divisor = args
    if (
        not INEXACT
        or not isinstance(x, CudaTensor)
        or not x.inner.is_floating_point()
        or isinstance(divisor, CudaTensor)
    ):
        return None
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    inverse = 1.0 / torch.as_tensor(divisor, dtype=wide)
    return x.inner.mul_(inverse) if func._schema.name == "aten::div_" else x.inner * inverse


generator_state = torch.Generator().manual_seed(0).get_state()


@contextlib.contextmanager
def _own_generator() -> Iterator[None]:
    """A GPU draws from a generator of its own."""
    global generator_state
    host = torch.get_rng_state()
    torch.set_rng_state(generator_state)
    try:
        yield
    finally:
        generator_state = torch.get_rng_state()
        torch.set_rng_state(host)


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return CudaTensor(
        torch.empty(size, dtype=dtype, device="cpu", memory_format=memory_format or torch.contiguous_format)
    )


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return CudaTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _deepcopy(self: CudaTensor, memo: dict[int, Any]) -> Tensor:
    if id(self) not in memo:
        copied = CudaTensor(deepcopy(self.inner, memo))
        copied.__dict__.update({k: deepcopy(v, memo) for k, v in self.__dict__.items() if k != "inner"})
        memo[id(self)] = copied.requires_grad_(self.requires_grad)
    return memo[id(self)]


_installed: list[Any] = []


def install(library: str, *, triton: bool) -> None:
    """Make this process a machine with one GPU. `library`: of `build`, and loaded before torch was imported.

    `triton`: whether Triton works on it; its kernels are then compiled for an H100, and run by Triton's interpreter.
    """
    from tests.cuda_double import collectives, cuda

    _installed.append(ctypes.CDLL(library))
    cuda.install()
    collectives.install()
    kernels = torch.library.Library("aten", "IMPL")
    kernels.impl("empty.memory_format", _empty, "CUDA")
    kernels.impl("empty_strided", _empty_strided, "CUDA")
    # torch.tensor(..., device="cuda") copies beneath the key by which a subclass is asked.
    kernels.impl("copy_", lambda *args, **kwargs: dispatch(_aten.copy_.default, args, kwargs), "CUDA")
    _installed.append(kernels)
    copy, apply = Tensor.__deepcopy__, torch.nn.Module._apply

    def deep(self: Tensor, memo: dict[int, Any]) -> Any:
        return _deepcopy(self, memo) if isinstance(self, CudaTensor) else copy(self, memo)

    def move(self: Any, fn: Any, recurse: bool = True) -> Any:
        # Parameters stay the same objects when they move, as with `param.data = ...`, which takes tensors of one kind.
        own = next((p.detach() for p in self._parameters.values() if p is not None), None)
        moves = own is not None and isinstance(own, CudaTensor) != isinstance(fn(own), CudaTensor)
        torch.__future__.set_swap_module_params_on_conversion(moves)
        return apply(self, fn, recurse)

    Tensor.__deepcopy__, torch.nn.Module._apply = deep, move  # type: ignore[method-assign]
    if triton:
        from tests.cuda_double import triton_launches

        triton_launches.install()
    else:
        from compression.kernels import availability

        availability._off = True
