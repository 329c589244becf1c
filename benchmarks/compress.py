"""`make bench-compress`: bits, bytes and milliseconds of every codec on real updates of ResNet-18, beside its peers.

Times are medians, and ratios are against a copy of the same bytes in the same run. Encoding is the whole of it: finite
check, selection, gathering, value coding, positions, payload. Decoding includes adding to a dense vector.
"""

import argparse
import csv
import math
import tracemalloc
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from common import machine, show, timed
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.profiler import ProfilerActivity, profile
from updates import real_updates

from compression import FlatBucket, Layout, make_codec
from compression.wire import HEADER_BYTES, read_header
from fl.common.paths import expanded

DENSITIES = (0.1, 0.01, 0.001)
FORMATS = (
    "",
    "+zstd",
    "+bf16",
    "+bf16+zstd",
    "+int8+zstd",
    "+int4+zstd",
    "+log4+zstd",
    "+log3",
    "+log3+zstd",
    "+sign+zstd",
)
OTHERS = ("fp16", "bf16+zstd", "int8+zstd", "qsgd:4+zstd", "randk:0.01+bf16", "cost:0.01+log3+zstd", "prune:0.99+log3+zstd",
          "powersgd:1", "powersgd:4", "powersgd:4+bf16+zstd")  # fmt: skip
COLUMNS = ("update", "codec", "bytes", "ratio", "kept", "index_bits", "value_bits", "payload_bits", "kept_energy", "error",
           "encode_ms", "encode_x", "decode_ms", "decode_x")  # fmt: skip


def codec_row(name: str, spec: str, layout: Layout, x: Tensor, copy_s: float) -> dict[str, Any]:
    """One codec on one update."""
    codec, out = make_codec(spec), torch.zeros_like(x)
    payload, decoded = codec.encode(x, layout)
    encode_s = timed(lambda: codec.encode(x, layout))
    decode_s = timed(lambda: codec.decode(payload, x.numel(), layout).add_to(out))
    header, kept = read_header(payload), decoded.kept
    dense = decoded.dense()
    sent = x if decoded.indices is None else x[decoded.indices]
    return {
        "update": name,
        "codec": spec,
        "bytes": payload.numel(),
        "kept": kept,
        "index_bits": round(8 * header.index_bytes / kept, 2),
        "value_bits": round(8 * header.value_bytes / kept, 2),
        "payload_bits": round(8 * payload.numel() / kept, 2),
        "kept_energy": round(float(sent.square().sum() / x.square().sum()), 4),
        "error": round(float((x - dense).square().sum() / x.square().sum()), 4),
        **times(x, payload.numel(), copy_s, encode_s, decode_s),
    }


def times(x: Tensor, size: int, copy_s: float, encode_s: float, decode_s: float | None = None) -> dict[str, Any]:
    """The columns that every row has."""
    return {
        "ratio": round((4 * x.numel() + HEADER_BYTES) / size, 1),
        "encode_ms": round(1e3 * encode_s, 1),
        "encode_x": round(encode_s / copy_s, 1),
        **(
            {} if decode_s is None else {"decode_ms": round(1e3 * decode_s, 1), "decode_x": round(decode_s / copy_s, 1)}
        ),
    }


def peer_rows(name: str, layout: Layout, x: Tensor, copy_s: float) -> list[dict[str, Any]]:
    """What users of other libraries get: plain PyTorch, and its PowerSGD hook on a process group of one."""
    rows, out = [], torch.zeros_like(x)
    for density in DENSITIES:
        k = round(density * x.numel())

        def top_k(k: int = k) -> tuple[Tensor, Tensor]:
            chosen = torch.topk(x.abs(), k, sorted=False).indices
            return chosen.int(), x[chosen]

        def sampled(k: int = k) -> tuple[Tensor, Tensor]:
            sample = x[torch.randint(x.numel(), (x.numel() // 100,))].abs()
            threshold = torch.topk(sample, max(1, k // 100), sorted=False).values.min()
            chosen = (x.abs() >= threshold).nonzero().squeeze(1)
            return chosen.int(), x[chosen]

        for title, work in (
            (f"torch.topk {density:g}, int32 + fp32", top_k),
            (f"sampled threshold {density:g} (DGC)", sampled),
        ):
            indices, values = work()
            decode = lambda i=indices, v=values: out.index_add_(0, i, v)  # noqa: E731
            rows.append(
                {
                    "update": name,
                    "codec": title,
                    "bytes": 8 * values.numel(),
                    "kept": values.numel(),
                    **{"index_bits": 32.0, "value_bits": 32.0, "payload_bits": 64.0},
                    "kept_energy": round(float(values.square().sum() / x.square().sum()), 4),
                    **times(x, 8 * values.numel(), copy_s, timed(work), timed(decode)),
                }
            )
    half = x.half()
    cast = times(x, 2 * x.numel(), copy_s, timed(x.half), timed(lambda: out.add_(half)))
    rows.append({"update": name, "codec": "fp16 cast", "bytes": 2 * x.numel(), "kept": x.numel(), **cast})
    for rank in (1, 4):
        # Its matrices want the parameters in reverse order, as DDP's buckets have them.
        parameters = [torch.empty(shape) for shape in reversed(layout.shapes)]
        state = PowerSGDState(None, rank, start_powerSGD_iter=2)
        bucket = FlatBucket(torch.cat([view.flatten() for view in reversed(layout.views(x))]), parameters)

        def hook(state: Any = state, bucket: Any = bucket) -> Tensor:
            return powerSGD_hook(state, bucket).wait()

        for _ in range(3):
            hook()
        size = 4 * sum(_factor_floats(shape, rank) for shape in layout.shapes)
        row = times(x, size, copy_s, timed(hook))
        rows.append({"update": name, "codec": f"torch powerSGD_hook rank {rank} (both ends)", "bytes": size, **row})
    return rows


def _factor_floats(shape: tuple[int, ...], rank: int) -> int:
    rows, columns = shape[0], math.prod(shape[1:])
    worth = len(shape) > 1 and (rows + columns) * rank * 2 < rows * columns  # its min_compression_rate is 2
    return (rows + columns) * rank if worth else math.prod(shape)


def allocations(spec: str, layout: Layout, x: Tensor) -> str:
    """What one call of `encode` allocates, in updates: everything by torch, and NumPy's peak."""
    codec = make_codec(spec)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True):
        codec.encode(x, layout)  # what is imported and allocated once is not counted
    tracemalloc.start()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        codec.encode(x, layout)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    by_torch = sum(
        max(0, event.self_device_memory_usage, event.self_cpu_memory_usage) for event in found.key_averages()
    )
    return f"{by_torch / (4 * x.numel()):.3f} by torch in all, {peak / (4 * x.numel()):.3f} at NumPy's peak"


def _copy_s(x: Tensor) -> float:
    target = torch.empty_like(x)
    return timed(lambda: target.copy_(x), 21)


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=expanded, default="data", help="folder with CIFAR-10")
    parser.add_argument(
        "--updates", type=expanded, default=Path("outputFolder/updates"), help="where the updates are kept"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--csv", type=expanded, default=Path(__file__).parent / "results" / "compress.csv")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    updates = real_updates(options.data_dir, options.updates, options.threads)
    torch.set_num_threads(options.threads)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    specs = [f"topk:{density:g}{tail}" for density in DENSITIES for tail in FORMATS] + list(OTHERS)
    rows: list[dict[str, Any]] = []
    for name, (layout, x) in updates.items():
        copy_s = _copy_s(x)
        rows.append({"update": name, "codec": "copy of the same bytes", "bytes": 4 * x.numel(),
                     **times(x, 4 * x.numel(), copy_s, copy_s, copy_s)})  # fmt: skip
        rows += [codec_row(name, spec, layout, x, copy_s) for spec in specs]
        rows += peer_rows(name, layout, x, copy_s)
    dist.destroy_process_group()
    options.csv.parent.mkdir(exist_ok=True)
    with open(options.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    cells = [[str(row.get(column, "")) for column in COLUMNS] for row in rows]
    show(f"ResNet-18, 11.2 M coordinates; {machine()}", list(COLUMNS), cells)
    layout, x = updates["first"]
    for spec in ("topk:0.01", "topk:0.01+log3+zstd", "topk:0.001+log3+zstd"):
        show(f"{spec}: memory one encode allocates, in updates", ["allocated"], [[allocations(spec, layout, x)]])


if __name__ == "__main__":
    main()
