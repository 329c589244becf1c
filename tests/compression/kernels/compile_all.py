"""Compile every kernel of the package to machine code, for GPUs that need not be there; run by `test_kernels.py`.

By Triton's launcher, which compiles a whole number that is 1 into the kernel and treats multiples of 16 by themselves.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

import compression.kernels
from compression.kernels.launch import EXACT

SIGNATURES = {
    "_to_cells": "patterns:*i32 words:*i32 codes:*u8 m:i32 width:i32",
    "_from_cells": "words:*i32 codes:*u8 patterns:*i32 m:i32 width:i32",
    "_accumulate": "out:*fp32 positions:*i64 values:*fp32 weight:fp32 n:i64 k:i32",
    "_count_digits": "patterns:*i32 begins:*i64 firsts:*i64 histograms:*i64 next_histograms:*i64 states:*i64 "
    "next_states:*i64 parts:i32 share:i32 shift:i32",
    "_last_digit": "histograms:*i64 states:*i64 next_states:*i64",
    "_count_kept": "patterns:*i32 begins:*i64 firsts:*i64 state:*i64 greater:*i32 equal:*i32 parts:i32",
    "_write_kept": "patterns:*i32 begins:*i64 firsts:*i64 state:*i64 greater_ends:*i64 equal_ends:*i64 positions:*i64 "
    "values:*i32 parts:i32",
    "_pack_bits": "bits:*u8 packed:*u8 n:i64",
    "_unpack_bits": "packed:*u8 bits:*u8 n:i64",
    "_pack_fixed": "values:*i64 packed:*u8 k:i32 width:i32",
    "_unpack_fixed": "packed:*u8 values:*i64 k:i32 size:i32 width:i32",
    "_uniform": "out:*fp32 key:i64 start:i32 n:i32",
    "_round": "values:*fp32 scales:*fp32 codes:*u8 key:i64 start:i32 n:i32 per_scale:i32 levels:i32",
}
INLINED = ("_draw", "_float", "_narrow", "_part", "_root", "_spare_before")  # into kernels: never launched
ARGUMENTS: dict[str, Any] = {
    "*fp32": torch.float32,
    "*i64": torch.int64,
    "*i32": torch.int32,
    "*u8": torch.uint8,
    "fp32": 0.5,
    "i32": 1_000_003,
    "i64": (1 << 40) + 1,
}


class Driver:
    """What the launcher asks of the machine."""

    capability = 80

    def get_current_target(self) -> GPUTarget:
        """The GPU to compile for."""
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """The launcher keeps what it compiled by this number."""
        return self.capability

    def get_current_stream(self, device: int) -> int:
        """Nothing is launched."""
        return 0


def launches(signature: str) -> Iterator[list[Any]]:
    """Arguments of an ordinary launch, and the same with every whole number 1 and 16 in turn, and all of them 1."""
    ordinary = [ARGUMENTS[part.partition(":")[2]] for part in signature.split()]
    whole = [at for at, value in enumerate(ordinary) if isinstance(value, int)]
    yield ordinary
    yield [1 if at in whole else value for at, value in enumerate(ordinary)]
    for special in whole:
        yield [1 if at == special else value for at, value in enumerate(ordinary)]
        yield [16 if at == special else value for at, value in enumerate(ordinary)]


def main() -> None:
    """Compile for sm_80 (A100) and sm_90 (H100)."""
    driver = Driver()
    triton.runtime.driver.set_active(driver)
    seen, failures = set(), []
    for found in pkgutil.iter_modules(compression.kernels.__path__, "compression.kernels."):
        for name, kernel in vars(importlib.import_module(found.name)).items():
            if not isinstance(kernel, JITFunction) or name in seen or name in INLINED:
                continue
            seen.add(name)
            block = {"BLOCK": 1024} if "BLOCK" in kernel.arg_names else {}
            assert [part.partition(":")[0] for part in SIGNATURES[name].split()] + [*block] == kernel.arg_names
            for driver.capability in (80, 90):
                for arguments in launches(SIGNATURES[name]):
                    try:
                        built = kernel.warmup(*arguments, **block, **EXACT, grid=(1,))
                    except Exception as error:
                        failures.append(f"{name}{arguments} for sm_{driver.capability}: {error}")
                        continue
                    assert built.asm["cubin"]
                    assert not re.search(r"\bfma\.|\.ftz|div\.full|div\.approx", built.asm["ptx"]), f"{name}: not exact"
    assert seen == set(SIGNATURES), seen ^ set(SIGNATURES)
    assert not failures, "\n\n".join(failures)


if __name__ == "__main__":
    main()
