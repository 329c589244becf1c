"""`make bench-train`: local training through each engine against a bare PyTorch loop, the choice of precision, and clients
that train at once against one after another.

Real digits images through ResNet-18, random ones through small networks. What is compared alternates, so that both see the
same neighbours on a shared machine; ratios are of the medians. `python benchmarks/train.py 1 together` is the last
table alone, on one thread.
"""

import contextlib
import copy
import statistics
import sys
import time
from itertools import pairwise
from types import SimpleNamespace

import torch
from common import machine, show
from torch import nn
from torch.nn import functional

from fl.common.config import Config
from fl.data import Split, load_dataset
from fl.data.augment import Augment
from fl.data.normalise import Normaliser, make_normaliser
from fl.models import build_model
from fl.models.small import conv2, lenet5
from fl.models.state import ModelState
from fl.models.update import Job
from fl.training.engine import make_engine
from fl.training.engine.plain import PlainEngine
from fl.training.engine.precision import autocast_dtype, resolve_precision
from fl.training.local_model import WholeModel
from fl.training.trainer import ClientTrainer

BATCH, STEPS, ROUNDS = 64, 6, 5
CPU = torch.device("cpu")


def bare(
    model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype, layout: torch.memory_format
) -> float:
    """Images a second of the shortest possible loop: batches ready in the right layout, fused SGD, nothing else."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    batches = [(bx.contiguous(memory_format=layout), by) for bx, by in zip(x.split(BATCH), y.split(BATCH), strict=True)]
    model.train()
    started = time.perf_counter()
    for step in range(STEPS):
        bx, by = batches[step % len(batches)]
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = functional.cross_entropy(model(bx), by)
        loss.backward()
        optimizer.step()
    return BATCH * STEPS / (time.perf_counter() - started)


def engines(config: Config) -> None:
    """Every engine that runs here against the bare loop."""
    data = load_dataset(config, seed=0)
    normalise = Normaliser(data.train.x)
    dtype = autocast_dtype(resolve_precision(config.precision, CPU))
    rows = []
    for name in ("ddp", "accelerate"):
        options = Config(**{**vars(config), "engine": name})
        model = build_model(options, classes=10, in_channels=3, image_size=32, seed=0)
        engine = make_engine(options, model, SimpleNamespace(rank=0, local_rank=0, device=CPU, launcher="python"))
        state = ModelState(engine.model, CPU)
        trainer = ClientTrainer(
            options,
            data.train,
            [torch.arange(1000)],
            augment=Augment("crop:4+flip"),
            normalise=normalise,
            seed=0,
        )
        whole = WholeModel(engine, state)
        x, y = normalise(data.train.x[: 4 * BATCH]), data.train.y[: 4 * BATCH]
        floors, ours = [], []
        for round_ in range(ROUNDS + 1):
            floors.append(bare(engine.model, x, y, dtype, engine.memory_format))
            ours.append(BATCH * STEPS / trainer.train(Job(0, round_, round_), whole).train_s)
        floor, mine = statistics.median(floors[1:]), statistics.median(ours[1:])
        rows.append([name, engine.precision, f"{mine:.0f}", f"{floor:.0f}", f"{mine / floor:.2f}"])
    columns = ["engine", "precision", "images/s, whole client", "images/s, bare loop", "ratio"]
    show(f"ResNet-18 local training, batch {BATCH}, {STEPS} steps a client; {machine()}", columns, rows)


def precisions() -> None:
    """Which arithmetic and layout train fastest: the measurement behind `--precision auto`."""
    rows = []
    networks = {
        "resnet18": Config(model="resnet18"),
        "resnet18, GroupNorm": Config(model="resnet18", norm="group"),
        "lenet5": Config(model="lenet5"),
        "pfl_cnn": Config(model="pfl_cnn"),
    }
    for name, config in networks.items():
        x, y = torch.randn(2 * BATCH, 3, 32, 32), torch.randint(10, (2 * BATCH,))
        speeds = {}
        for dtype in (torch.float32, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last):
                model = build_model(config, classes=10, in_channels=3, image_size=32, seed=0)
                model = model.to(memory_format=layout)
                bare(model, x, y, dtype, layout)
                speeds[dtype, layout] = statistics.median(bare(model, x, y, dtype, layout) for _ in range(3))
        base = speeds[torch.float32, torch.contiguous_format]
        rows.append([name, *(f"{speed:,.0f} ({speed / base:.2f}x)" for speed in speeds.values())])
    columns = ["model", "fp32", "fp32 channels-last", "bf16", "bf16 channels-last"]
    show(f"Images/s of the bare loop, batch {BATCH}; {machine()}", columns, rows)


def together() -> None:
    """`--clients-at-once` against one after another, whole clients; also of networks that a run never trains so."""

    def layers(*widths: int) -> nn.Module:
        linear = (module for pair in pairwise(widths) for module in (nn.Linear(*pair), nn.ReLU()))
        return nn.Sequential(nn.Flatten(), *linear)[:-1]

    networks: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "20-64-64-10": (layers(20, 64, 64, 10), (20,)),
        "784-10": (layers(784, 10), (1, 28, 28)),
        "784-200-10": (layers(784, 200, 10), (1, 28, 28)),
        "lenet5": (lenet5(classes=10, in_channels=1, image_size=28), (1, 28, 28)),
        "conv2": (conv2(classes=10, in_channels=1, image_size=28), (1, 28, 28)),
    }
    rows = []
    for name, (network, shape) in networks.items():
        steps, sizes = (20, (10, 20, 64)) if name != "conv2" else (2, (10,))
        for batch in sizes:
            row = [name, str(batch)]
            for clients in (5, 20):
                data = Split(torch.randn(clients * batch * 4, *shape), torch.arange(clients * batch * 4) % 10)
                config = Config(precision="fp32", batch_size=batch, local_steps=steps, lr=0.01)
                engine = PlainEngine(config, copy.deepcopy(network), CPU)
                whole = WholeModel(engine, ModelState(engine.model, CPU))
                parts = list(torch.arange(len(data)).chunk(clients))
                seconds: list[list[float]] = [[], []]
                for _ in range(ROUNDS):
                    for at, at_once in enumerate((1, clients)):
                        trainer = ClientTrainer(
                            config,
                            data,
                            parts,
                            augment=Augment("none"),
                            normalise=make_normaliser(data.x),
                            seed=0,
                            at_once=at_once,
                        )
                        started = time.process_time()
                        for _ in trainer.train_many(
                            range(clients),
                            lambda client, model=whole: (Job(client, 0, 0), model),
                            contextlib.nullcontext(),
                        ):
                            pass
                        seconds[at].append((time.process_time() - started) / clients)
                one, many = (statistics.median(each[1:]) for each in seconds)
                row += [f"{one * 1e3:.1f}", f"{one / many:.2f}"]
            rows.append(row)
    columns = ["network", "batch", "ms a client, one of 5", "times faster at once", "one of 20", "times faster at once"]
    show(f"Clients at once, processor time; {machine()}", columns, rows)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    if sys.argv[2:] != ["together"]:
        engines(Config(dataset="digits", local_steps=STEPS, batch_size=BATCH, lr=0.01))
        precisions()
    together()
