"""Encode and decode on the double. Oracle: the bytes and bits of the CPU; how often the host waited when this was written.

Each codec with Triton's kernels, which are compiled with the very arguments they get, and with PyTorch's alone.
"""

import contextlib

import pytest
import torch

from compression import Layout, Sender, kernels, make_codec, placement
from tests.compression.cases import layers
from tests.cuda_double import double
from tests.cuda_double.recorder import recorder

SHAPES = ((16, 3, 3, 3), (16,), (32, 16, 3, 3), (32,), (40, 300), (40,))
LAYOUT = Layout(tuple(f"{i}.{'weight' if len(shape) > 1 else 'bias'}" for i, shape in enumerate(SHAPES)), SHAPES)

SHORT = {
    "none": {"triton": (2, 2, 4, 3), "torch": (2, 2, 4, 3)},
    "bf16+zstd": {"triton": (2, 2, 7, 3), "torch": (2, 2, 7, 3)},
    "int8": {"triton": (2, 2, 7, 3), "torch": (2, 2, 7, 3)},
    "log3+zstd": {"triton": (2, 2, 7, 3), "torch": (2, 2, 7, 3)},
    "sign": {"triton": (2, 2, 7, 3), "torch": (2, 2, 7, 3)},
    "topk:0.03": {"triton": (2, 2, 18, 3), "torch": (8, 2, 27, 3)},
    "topk:0.03+log3+zstd": {"triton": (2, 2, 19, 3), "torch": (8, 2, 28, 3)},
    "topk:0.1,scope=layer+bf16": {"triton": (2, 2, 19, 3), "torch": (38, 2, 130, 3)},
    "prune:0.95+int8": {"triton": (4, 2, 15, 3), "torch": (4, 2, 15, 3)},
    "threshold:0.1+fp16": {"triton": (3, 2, 14, 3), "torch": (3, 2, 14, 3)},
    "randk:0.05+int4": {"triton": (2, 2, 10, 3), "torch": (2, 2, 10, 3)},
    "cost:0.05+qsgd:7+zstd": {"triton": (5, 2, 19, 3), "torch": (7, 2, 27, 3)},
    "powersgd:2+bf16": {"triton": (9, 4, 72, 19), "torch": (9, 4, 72, 19)},
}
"""Waits of the host in an encode and in a decode, then kernels in each: no more than these."""

LONG = {
    "none": {"triton": (1, 2, 4, 3), "torch": (1, 2, 4, 3)},
    "bf16+zstd": {"triton": (3, 4, 13, 8), "torch": (3, 4, 13, 8)},
    "int8": {"triton": (3, 4, 33, 22), "torch": (3, 4, 91, 22)},
    "log3+zstd": {"triton": (5, 7, 32, 30), "torch": (5, 7, 218, 88)},
    "sign": {"triton": (3, 4, 72, 21), "torch": (3, 4, 83, 30)},
    "topk:0.03": {"triton": (9, 14, 94, 48), "torch": (15, 14, 186, 115)},
    "topk:0.03+log3+zstd": {"triton": (19, 19, 161, 74), "torch": (25, 19, 516, 199)},
    "topk:0.1,scope=layer+bf16": {"triton": (9, 13, 88, 39), "torch": (45, 13, 249, 79)},
    "prune:0.95+int8": {"triton": (13, 15, 114, 61), "torch": (13, 15, 244, 119)},
    "threshold:0.1+fp16": {"triton": (10, 14, 80, 40), "torch": (10, 14, 119, 71)},
    "randk:0.05+int4": {"triton": (4, 5, 64, 52), "torch": (4, 5, 133, 61)},
    "cost:0.05+qsgd:7+zstd": {"triton": (36, 18, 268, 73), "torch": (38, 18, 483, 131)},
    "powersgd:2+bf16": {"triton": (8, 4, 74, 20), "torch": (8, 4, 74, 20)},
}
"""The same of messages that are packed and unpacked on the GPU."""


def update() -> torch.Tensor:
    """Clustered and of several scales, as real ones are."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.cat([torch.full((size,), 1 / (i + 1)) for i, size in enumerate(LAYOUT.sizes)])
    return torch.randn(LAYOUT.total, generator=generator) * torch.rand(LAYOUT.total, generator=generator) ** 4 * scales


def messages(spec: str, x: torch.Tensor, name: str) -> list[torch.Tensor]:
    """Two messages, the second with what the first left: payloads, what is decoded, their sums, and what is left."""
    sender, sent = Sender(make_codec(spec)), []
    for turn in range(2):
        given = x.clone()
        with recorder.region(f"{name} encode {turn}"):
            payload, decoded = sender.encode(given, LAYOUT, key=turn)
            sender.keep()
        with recorder.region(f"{name} decode {turn}"):
            back = make_codec(spec).decode(payload, LAYOUT.total, LAYOUT)
        sent += [payload, decoded.dense(), back.dense(), back.add_to(torch.ones_like(x), 0.5)]
    return [tensor.cpu() for tensor in (*sent, *sender.state_dict().values())]


@pytest.mark.parametrize("by", ["triton", "torch"])
@pytest.mark.parametrize("length", ["short", "long"])
@pytest.mark.parametrize("spec", SHORT)
def test_a_codec(spec: str, length: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes and bits as on the CPU, for few kernels and waits, packed on the host or on the GPU."""
    monkeypatch.setattr(double, "INEXACT", True)
    if length == "long":
        monkeypatch.setattr(placement, "_FEW", 0)
    x, name = update(), f"{spec} {length} {by}"
    with kernels.switched_off() if by == "torch" else contextlib.nullcontext():
        found = messages(spec, x.cuda(), name)
    for a, b in zip(found, messages(spec, x, "cpu"), strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()
    seen = [recorder.regions[f"{name} {step} 1"] for step in ("encode", "decode")]
    counts = tuple(each.waits.total() for each in seen) + tuple(each.kernels for each in seen)
    most = SHORT if length == "short" else LONG
    assert all(count <= bound for count, bound in zip(counts, most[spec][by], strict=True)), (
        f"{counts}\n{seen[0]}\n{seen[1]}"
    )


@pytest.mark.parametrize("n", [1, 9, 40])
@pytest.mark.parametrize(
    "spec", ["topk:0.3+log3+zstd", "prune:0.5+int4", "threshold:9", "topk:0.3,scope=layer", "cost:0.3,linear=3"]
)
def test_a_few_coordinates(spec: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that numbers of values are 1, which Triton compiles into its kernels, or none; empty layers, and of one."""
    monkeypatch.setattr(placement, "_FEW", 0)
    x, codec, layout = torch.randn(n, generator=torch.Generator().manual_seed(n)), make_codec(spec), layers(n)
    expected, _ = codec.encode(x.clone(), layout, key=5)
    payload, decoded = codec.encode(x.cuda(), layout, key=5)
    assert torch.equal(payload.cpu(), expected)
    assert torch.equal(codec.decode(payload, n, layout).dense().cpu(), decoded.dense().cpu())


def test_ties_of_cost_rank_as_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal quotients |x| / cost of layers that cost 1 and 5, which products with rounded inverses tell apart."""
    monkeypatch.setattr(double, "INEXACT", True)
    torn = [x for x in range(1, 5000) if x * (1.0 / 1000) != (5 * x) * (1.0 / 5000)][3:5] * 50
    x = torch.tensor(torn + [5 * number for number in torn], dtype=torch.float32)
    layout = Layout(("conv.weight", "fc.weight"), ((4, 1, 5, 5), (10, 10)))
    kept = [make_codec("cost:0.3").encode(x.to(device), layout)[1].indices for device in ("cpu", "cuda")]
    assert torch.equal(kept[0], kept[1].cpu())
