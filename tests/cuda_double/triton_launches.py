"""Launches of Triton kernels: each is compiled for an H100 with its very arguments, then run by Triton's interpreter.

Compiling shows what the interpreter cannot: whole numbers that are 1 become part of the kernel, and machine code must
come of it.
"""

import threading
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import interpreter
from triton.runtime.jit import JITFunction

from tests.cuda_double.double import CudaTensor, inner
from tests.cuda_double.recorder import recorder

_lock = threading.Lock()  # the interpreter is one for the process
_interpreted: dict[Any, Any] = {}


class _Driver:
    """What a launch asks of the machine."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def _interpret(function: JITFunction) -> Any:
    if function.fn not in _interpreted:
        _interpreted[function.fn] = interpreter.InterpretedFunction(function.fn)
    return _interpreted[function.fn]


def install() -> None:
    """From now on."""
    triton.runtime.driver.set_active(_Driver())
    compiled = JITFunction.run

    def run(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        for value in (*args, *kwargs.values()):
            if hasattr(value, "data_ptr") and not isinstance(value, CudaTensor):
                raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        kernel = compiled(self, *args, grid=grid, warmup=True, **kwargs)
        recorder.kernel()
        with _lock:
            _interpret(self)[grid](*map(inner, args), **kwargs)
        return kernel

    def called(self: JITFunction, *args: Any, **kwargs: Any) -> Any:
        """One kernel called by another; what the interpreter replaces in triton.language is put back."""
        scope = interpreter._patch_lang(self.fn)
        try:
            return _interpret(self).rewrite()(*args, **kwargs)
        finally:
            scope.restore()

    JITFunction.run, JITFunction.__call__ = run, called
