"""`make bench-exchange`: one ResNet-18 exchange on two ranks against a dense all-reduce and a copy of the same bytes.

An exchange is: encode, send to rank 0, decode, FedYogi step, encode, broadcast, apply. Two gloo ranks on this machine, one
thread each; the update is that of eight real local steps. Selection alone is timed in one process with two threads.
"""

import dataclasses
import os
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import machine, real_update, show, timed

from compression import make_codec
from compression.codec import SparseCodec
from fl.clock.adaptive import Fractions
from fl.comm.encoder import CodecSchedule, Encoder
from fl.comm.message import SECTIONS, Bounds, Rejection, apply_change, decode_model, encode_buffers
from fl.comm.transport import Transport
from fl.common.config import ServerOptions
from fl.common.huge_pages import use_huge_pages
from fl.common.ranks import Ranks
from fl.models.update import Job
from fl.server.aggregate import Mean
from fl.server.optimizers import make_server_optimizer
from fl.server.server import Server

SPECS = ("none", "bf16", "topk:0.1", "topk:0.01", "topk:0.01+bf16", "topk:0.001", "prune:0.99", "threshold:1e-3")
REPEATS = 9


def selection(values: torch.Tensor) -> None:
    """Selecting and encoding alone, against torch.topk and a copy."""
    torch.set_num_threads(2)
    n = values.numel()
    target = torch.empty_like(values)
    copy_s = timed(lambda: target.copy_(values))
    rows = [["copy of the update", f"{copy_s * 1e3:.1f}", "1.0", ""]]
    for ratio in (0.01, 0.001):
        theirs = timed(lambda ratio=ratio: torch.topk(values.abs(), round(ratio * n)))
        rows.append([f"torch.topk {ratio:g}", f"{theirs * 1e3:.1f}", f"{theirs / copy_s:.1f}", ""])
        for what in ("select", "encode"):
            codec = make_codec(f"topk:{ratio}")
            assert isinstance(codec, SparseCodec)
            assert codec.selector is not None
            work = (lambda x, c=codec: c.selector.select(x, None, 0)) if what == "select" else codec.encode
            ours = timed(lambda work=work: work(values))
            rows.append(
                [
                    f"topk:{ratio:g} {what} (exact)",
                    f"{ours * 1e3:.1f}",
                    f"{ours / copy_s:.1f}",
                    f"{theirs / ours:.1f}x faster",
                ]
            )
    columns = ["what", "ms", "times a copy", "against torch.topk"]
    show(f"Selection, {n:,} floats; {machine()}", columns, rows)


def refuse(rejection: Rejection) -> None:
    """No message of a benchmark may be rejected."""
    raise RuntimeError(rejection.reason)


def on_rank(rank: int, store: str) -> None:
    """One of the two ranks of the exchange."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    cpu = torch.device("cpu")
    ranks = Ranks(rank, 2, rank, 2, cpu, cpu, "benchmark", 1)
    state, _, update = real_update()
    dense = update.values.clone()
    baseline = timed(lambda: dist.all_reduce(dense), REPEATS)
    copy_s = timed(lambda: dense.copy_(update.values), REPEATS)
    rows = [
        ["copy of the update", "", "", "", f"{copy_s * 1e3:.1f}", f"{copy_s / baseline:.2f}"],
        ["dense all-reduce", f"{4 * dense.numel():,}", "", "", f"{baseline * 1e3:.1f}", "1.00"],
    ]
    for spec in SPECS:
        make_optimizer = lambda params: make_server_optimizer(ServerOptions(server="fedyogi"), params)  # noqa: E731
        codec = make_codec(spec)
        server = Server(state, make_optimizer, codec, error_feedback=True, make_aggregator=lambda: Mean(state))
        encoder = Encoder(CodecSchedule(spec), "residual", Fractions(), state.layout, 0)
        transport = Transport(ranks, state.parameters.numel() + state.buffers.numel())
        most = dict.fromkeys(SECTIONS, 2**40)
        bounds = Bounds(update.samples, state.parameters.numel(), most)
        uploads, steps = [], []
        kept: dict[str, torch.Tensor] = {}
        for repeat in range(REPEATS + 1):
            fresh = dataclasses.replace(update, client=rank, values=update.values.clone())
            dist.barrier()
            started = time.perf_counter()
            message, _, kept = encoder.encode(Job(rank, repeat, repeat, state={"sender": kept}), fresh, {}, None)
            encoded = time.perf_counter()
            if rank == 0:
                server.aggregator.reset()
            for received in transport.gather([0, 1], iter([message]), lambda _, bounds=bounds: bounds, refuse):
                decoded = decode_model(received.sections, "update", state, codec)
                server.aggregator.add(*decoded, received.report.samples)

            def answer(server: Server = server) -> dict[str, torch.Tensor]:
                mean = server.aggregator.result()
                return {"change": server.step(mean), **encode_buffers(mean.buffers)}

            apply_change(state, *decode_model(transport.share(answer), "change", state, codec))
            server.commit()
            uploads.append(encoded - started)
            steps.append(time.perf_counter() - encoded)
        upload_s, step_s = (sorted(values[1:])[REPEATS // 2] for values in (uploads, steps))
        size = transport.reports[0].uplink_bytes
        total = upload_s + step_s
        rows.append(
            [
                f"{spec}, both ways",
                f"{size:,}",
                f"{upload_s * 1e3:.1f}",
                f"{step_s * 1e3:.1f}",
                f"{total * 1e3:.1f}",
                f"{total / baseline:.2f}",
            ]
        )
    if rank == 0:
        columns = ["what", "uplink bytes", "encode ms", "rest ms", "total ms", "times the all-reduce"]
        show(f"One exchange, 2 gloo ranks on one machine; {machine()} a rank", columns, rows)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    use_huge_pages()
    selection(real_update()[2].values)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)
        mp.spawn(on_rank, args=(f"{folder}/store",), nprocs=2)
