"""`benchmarks/gpu.sh` on a machine with a CUDA GPU: encode and decode of a real ResNet-18 update, 11.2 M floats at 1 %,
kernels on and off, against a device-to-device copy of the same bytes and torch.topk. `--check` only looks for a GPU and for
what training imports.
"""

import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from common import real_update, show
from torch import Tensor

from compression import kernels, make_codec

NEEDED = (
    *(
        "accelerate",
        "hypothesis",
        "jinja2",
        "jsonargparse",
        "matplotlib",
        "numpy",
        "PIL",
        "pytest",
        "rich",
        "safetensors",
    ),
    *("sklearn", "torch_pruning", "torchvision", "tqdm", "yaml", "zstandard"),
)
SPECS = (
    *("topk:0.01", "topk:0.01+bf16", "topk:0.01+log3+zstd", "topk:0.01,scope=layer", "prune:0.99", "threshold:1e-3"),
    *("cost:0.01+log3+zstd", "int8", "bf16+zstd", "powersgd:4"),
)
CALLS = 10


def timed_on(device: torch.device, work: Callable[[], Any], batches: int = 7) -> float:
    """Median seconds of a call of `work` in batches of 10; the device is waited for after each batch."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(3):
        work()
    wait()
    seconds = []
    for _ in range(batches):
        started = time.perf_counter()
        for _ in range(CALLS):
            work()
        wait()
        seconds.append((time.perf_counter() - started) / CALLS)
    return statistics.median(seconds)


def codec_rows(x: Tensor, layout: Any, specs: tuple[str, ...], copy_s: float) -> list[list[str]]:
    """A row for each codec and for kernels on and off: milliseconds, and times a copy."""
    rows = []
    for spec in specs:
        codec = make_codec(spec)
        for name, switch in (("kernels", nullcontext), ("torch", kernels.switched_off)):
            if name == "kernels" and not kernels.available(x.device):
                continue
            with switch():
                payload = codec.encode(x, layout)[0]
                encode_s = timed_on(x.device, partial(codec.encode, x, layout))
                decode_s = timed_on(x.device, partial(codec.decode, payload, x.numel(), layout))
                out = torch.zeros_like(x)
                decoded = codec.decode(payload, x.numel(), layout)
                add_s = timed_on(x.device, partial(decoded.add_to, out))
            cells = [cell for s in (encode_s, decode_s, add_s) for cell in (f"{s * 1e3:.3f}", f"{s / copy_s:.1f}")]
            rows.append([spec, name, f"{payload.numel():,}", *cells])
    return rows


def measure(x: Tensor, layout: Any, specs: tuple[str, ...]) -> list[list[str]]:
    """The table's rows for fp32 [n] on its device."""
    target = torch.empty_like(x)
    copy_s = timed_on(x.device, lambda: target.copy_(x))
    topk_s = timed_on(x.device, lambda: torch.topk(x.abs(), max(1, x.numel() // 100)))
    size = f"{4 * x.numel():,}"
    floor = [["copy", "torch", size, f"{copy_s * 1e3:.3f}", "1.0", "", "", "", ""]]
    floor += [["torch.topk 1 %", "torch", "", f"{topk_s * 1e3:.3f}", f"{topk_s / copy_s:.1f}", "", "", "", ""]]
    return floor + codec_rows(x, layout, specs, copy_s)


def main() -> None:
    """Print the table."""
    if not torch.cuda.is_available():
        raise SystemExit(f"benchmarks/gpu.py needs a CUDA GPU, and torch {torch.__version__} finds none here.")
    if sys.argv[1:] == ["--check"]:
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise SystemExit(f"benchmarks/gpu.py needs {', '.join(missing)}, which pip install -e '.[dev]' brings.")
        return
    state, _, update = real_update()
    x = update.values.cuda()
    rows = measure(x, state.layout, SPECS)
    columns = ["what", "by", "bytes", "encode ms", "x copy", "decode ms", "x copy", "add ms", "x copy"]
    kind = "on" if kernels.available(x.device) else "not available"
    device = torch.cuda.get_device_name()
    show(f"{x.numel():,} floats on {device}, torch {torch.__version__}, kernels {kind}", columns, rows)


if __name__ == "__main__":
    main()
