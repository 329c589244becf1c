"""Compile every kernel of the package to machine code, for GPUs that need not be there; run by `test_kernels.py`."""

import importlib
import pkgutil
import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import compression.kernels

SIGNATURES = {
    "_accumulate": "out:*fp32 positions:*i64 values:*fp32 weight:fp32 n:i64 k:i32",
    "_count_digits": "patterns:*i32 state:*i64 histogram:*i64 n:i32 share:i32 shift:i32",
    "_choose_digit": "state:*i64 histogram:*i64 next_state:*i64",
    "_count_kept": "patterns:*i32 state:*i64 greater:*i32 equal:*i32 n:i32",
    "_write_kept": "patterns:*i32 state:*i64 greater_ends:*i64 equal_ends:*i64 positions:*i64 values:*i32 n:i32",
    "_pack_bits": "bits:*u8 packed:*u8 n:i64",
    "_unpack_bits": "packed:*u8 bits:*u8 n:i64",
    "_pack_fixed": "values:*i64 packed:*u8 k:i32 width:i32",
    "_unpack_fixed": "packed:*u8 values:*i64 k:i32 size:i32 width:i32",
    "_uniform": "out:*fp32 key:i64 start:i32 n:i32",
    "_round": "values:*fp32 scales:*fp32 codes:*u8 key:i64 start:i32 n:i32 per_scale:i32 levels:i32",
}


def main() -> None:
    """Compile for sm_80 (A100) and sm_90 (H100)."""
    seen = set()
    for found in pkgutil.iter_modules(compression.kernels.__path__, "compression.kernels."):
        for name, kernel in vars(importlib.import_module(found.name)).items():
            if not isinstance(kernel, triton.runtime.JITFunction) or name in seen or name == "_draw":
                continue
            seen.add(name)
            signature = dict(part.split(":") for part in SIGNATURES[name].split())
            constants = {"BLOCK": 1024} if "BLOCK" in kernel.arg_names else {}
            signature |= dict.fromkeys(constants, "constexpr")
            for capability in (80, 90):
                source = ASTSource(kernel, signature, constants)
                built = triton.compile(
                    source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False}
                )
                assert built.asm["cubin"]
                assert not re.search(r"\bfma\.|\.ftz|div\.full|div\.approx", built.asm["ptx"]), f"{name} is not exact"
    assert seen == set(SIGNATURES), seen ^ set(SIGNATURES)


if __name__ == "__main__":
    main()
