"""`make bench-submodel`: a local training step of ResNet-18 against the structured sub-model without 40 % of its channels.

As the trainer runs it: bf16 where the device has it, channels-last with it, fused SGD with momentum. Both models take steps
in turns in one process, so that both see the same neighbours on a shared machine; times are medians, and so are the ratios
of neighbouring steps. Memory is measured in a fresh process for each model. Parameters and operations come from shapes.
"""

import argparse
import csv
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from common import machine, show
from torch import Tensor

from fl.common.config import Config
from fl.common.paths import expanded
from fl.models import build_model
from fl.models.surgery.flops import flops
from fl.pruning.structured import shrink
from fl.training.engine.plain import PlainEngine

SPARSITY = 0.4
KINDS = ("full", "sub-model")
COLUMNS = ("batch", "model", "parameters", "forward_mflops", "step_ms", "times_faster", "peak_mb", "peak_ratio")
FEW = 4  # steps after which memory no longer grows


def build(batch: int, device: torch.device) -> tuple[dict[str, torch.nn.Module], Tensor, Tensor]:
    """Both models by kind, a batch of images and its labels."""
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    model = build_model(Config(model="resnet18"), classes=10, in_channels=3, image_size=32, seed=0).to(device)
    models = {"full": model, "sub-model": shrink(model, SPARSITY, x[:1]).model}
    return models, x, torch.arange(batch, device=device) % 10


def engine_of(model: torch.nn.Module, device: torch.device) -> PlainEngine:
    """What trains a client, ready to step."""
    engine = PlainEngine(Config(model="resnet18", lr=0.01), model, device)
    engine.start(0.01)
    return engine


def time_both(batch: int, steps: int, device: torch.device) -> dict[str, Any]:
    """Seconds of each step by kind, the models in turns, and what is known without a clock."""
    models, x, y = build(batch, device)
    parameters = {kind: sum(p.numel() for p in model.parameters()) for kind, model in models.items()}
    operations = {kind: flops(model, x[:1]) for kind, model in models.items()}
    engines = {kind: engine_of(model, device) for kind, model in models.items()}
    x = x.contiguous(memory_format=engines["full"].memory_format)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(steps + 2):
        for kind in KINDS:
            started = time.perf_counter()
            engines[kind].step(x, y)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[kind].append(time.perf_counter() - started)
    found = {"parameters": parameters, "flops": operations, "precision": engines["full"].precision}
    return {**found, "step_s": {kind: values[2:] for kind, values in seconds.items()}}


def peak_of(kind: str, batch: int, device: torch.device) -> int:
    """Bytes that training one model takes at most, over what the process held before there was one."""
    before = held(device)
    # Cut for both kinds, so that what the allocator keeps of it is the same for both.
    models, x, y = build(batch, device)
    model = models[kind]
    del models
    gc.collect()
    forget_peak(device)
    engine = engine_of(model, device)
    x = x.contiguous(memory_format=engine.memory_format)
    for _ in range(FEW):
        engine.step(x, y)
    return peak(device) - before


def held(device: torch.device) -> int:
    """Bytes that this process holds now: on a GPU those of tensors, else its resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def forget_peak(device: torch.device) -> None:
    """From here on `peak` counts anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark is what is resident now


def peak(device: torch.device) -> int:
    """The most bytes held since `forget_peak`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_process(what: str, batch: int, options: argparse.Namespace) -> Any:
    """What a fresh process measures: both models' times, or one's peak."""
    words = ["--one", what, "--batches", str(batch), "--steps", str(options.steps), "--threads", str(options.threads)]
    command = [sys.executable, __file__, *words, "--device", options.device]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def rows_of(batch: int, timed: dict[str, Any], peaks: dict[str, int]) -> list[dict[str, Any]]:
    """A row for each model, with its ratios against the full one."""
    full = timed["step_s"]["full"]
    return [
        {
            "batch": batch,
            "model": kind,
            "parameters": timed["parameters"][kind],
            "forward_mflops": round(timed["flops"][kind] / 1e6, 1),
            "step_ms": round(1e3 * statistics.median(timed["step_s"][kind]), 1),
            "times_faster": round(
                statistics.median(a / b for a, b in zip(full, timed["step_s"][kind], strict=True)), 2
            ),
            "peak_mb": round(peaks[kind] / 1e6, 1),
            "peak_ratio": round(peaks[kind] / peaks["full"], 2),
        }
        for kind in KINDS
    ]


def main() -> None:
    """Measure, print the table, write the csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each model")
    parser.add_argument("--repeats", type=int, default=3, help="processes for each peak")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=expanded, default=Path("benchmarks/results/submodel.csv"))
    parser.add_argument("--one", choices=(*KINDS, "time"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        batch, device = options.batches[0], torch.device(options.device)
        one = time_both(batch, options.steps, device) if options.one == "time" else peak_of(options.one, batch, device)
        sys.stdout.write(json.dumps(one) + "\n")
        return
    rows, precision = [], ""
    for batch in options.batches:
        timed = in_process("time", batch, options)
        peaks = {kind: [in_process(kind, batch, options) for _ in range(options.repeats)] for kind in KINDS}
        rows += rows_of(batch, timed, {kind: statistics.median(values) for kind, values in peaks.items()})
        precision = timed["precision"]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with open(options.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    where = torch.cuda.get_device_name() if options.device == "cuda" else machine()
    title = f"ResNet-18 without {SPARSITY:.0%} of its channels, a local training step, {precision}; {where}"
    show(
        title,
        list(COLUMNS),
        [[f"{row[name]:,}" if isinstance(row[name], int) else str(row[name]) for name in COLUMNS] for row in rows],
    )


if __name__ == "__main__":
    main()
