"""Encode and decode on the double. Oracle: the bytes and bits of the CPU; how often the host waited when this was written.

Each codec with Triton's kernels, which are compiled with the very arguments they get, and with PyTorch's alone.
"""

import contextlib

import pytest
import torch

from compression import Layout, Sender, kernels, make_codec, placement
from tests.cuda_double import double
from tests.cuda_double.recorder import recorder

SHAPES = ((16, 3, 3, 3), (16,), (32, 16, 3, 3), (32,), (40, 300), (40,))
LAYOUT = Layout(tuple(f"{i}.{'weight' if len(shape) > 1 else 'bias'}" for i, shape in enumerate(SHAPES)), SHAPES)

SHORT = {
    "none": {"triton": (2, 2, 8, 3), "torch": (2, 2, 8, 3)},
    "bf16+zstd": {"triton": (2, 2, 11, 3), "torch": (2, 2, 11, 3)},
    "int8": {"triton": (2, 2, 11, 3), "torch": (2, 2, 11, 3)},
    "log3+zstd": {"triton": (2, 2, 11, 3), "torch": (2, 2, 11, 3)},
    "sign": {"triton": (2, 2, 11, 3), "torch": (2, 2, 11, 3)},
    "topk:0.03": {"triton": (3, 2, 28, 4), "torch": (9, 2, 36, 4)},
    "topk:0.03+log3+zstd": {"triton": (3, 2, 29, 4), "torch": (9, 2, 37, 4)},
    "topk:0.1,scope=layer+bf16": {"triton": (3, 2, 106, 4), "torch": (39, 2, 154, 4)},
    "prune:0.95+int8": {"triton": (5, 2, 25, 4), "torch": (5, 2, 24, 4)},
    "threshold:0.1+fp16": {"triton": (4, 2, 21, 4), "torch": (4, 2, 20, 4)},
    "randk:0.05+int4": {"triton": (3, 2, 43, 4), "torch": (3, 2, 43, 4)},
    "cost:0.05+qsgd:7+zstd": {"triton": (27, 2, 126, 4), "torch": (27, 2, 123, 4)},
    "powersgd:2+bf16": {"triton": (9, 4, 80, 19), "torch": (9, 4, 80, 19)},
}
"""Waits of the host in an encode and in a decode, then kernels in each: no more than these."""

LONG = {
    "none": {"triton": (1, 2, 8, 7), "torch": (1, 2, 8, 7)},
    "bf16+zstd": {"triton": (3, 4, 17, 12), "torch": (3, 4, 17, 12)},
    "int8": {"triton": (5, 6, 44, 33), "torch": (5, 6, 102, 33)},
    "log3+zstd": {"triton": (7, 9, 273, 125), "torch": (7, 9, 273, 125)},
    "sign": {"triton": (5, 6, 83, 32), "torch": (5, 6, 94, 41)},
    "topk:0.03": {"triton": (9, 14, 104, 52), "torch": (15, 14, 195, 119)},
    "topk:0.03+log3+zstd": {"triton": (21, 21, 408, 169), "torch": (27, 21, 576, 236)},
    "topk:0.1,scope=layer+bf16": {"triton": (9, 13, 175, 43), "torch": (45, 13, 273, 83)},
    "prune:0.95+int8": {"triton": (15, 17, 131, 72), "torch": (15, 17, 260, 130)},
    "threshold:0.1+fp16": {"triton": (10, 14, 87, 44), "torch": (10, 14, 125, 75)},
    "randk:0.05+int4": {"triton": (6, 7, 77, 63), "torch": (6, 7, 146, 72)},
    "cost:0.05+qsgd:7+zstd": {"triton": (45, 20, 320, 84), "torch": (45, 20, 524, 142)},
    "powersgd:2+bf16": {"triton": (8, 4, 82, 24), "torch": (8, 4, 82, 24)},
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
@pytest.mark.parametrize("spec", ["topk:0.3+log3+zstd", "prune:0.5+int4"])
def test_a_few_coordinates(spec: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors so short that numbers of values are 1, which Triton compiles into its kernels."""
    monkeypatch.setattr(placement, "_FEW", 0)
    x, codec = torch.randn(n, generator=torch.Generator().manual_seed(n)), make_codec(spec)
    expected, _ = codec.encode(x.clone(), key=5)
    payload, decoded = codec.encode(x.cuda(), key=5)
    assert torch.equal(payload.cpu(), expected)
    assert torch.equal(codec.decode(payload, n).dense().cpu(), decoded.dense().cpu())


def test_ties_of_cost_rank_as_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal quotients |x| / cost of layers that cost 1 and 5, which products with rounded inverses tell apart."""
    monkeypatch.setattr(double, "INEXACT", True)
    torn = [x for x in range(1, 5000) if x * (1.0 / 1000) != (5 * x) * (1.0 / 5000)][3:5] * 50
    x = torch.tensor(torn + [5 * number for number in torn], dtype=torch.float32)
    layout = Layout(("conv.weight", "fc.weight"), ((4, 1, 5, 5), (10, 10)))
    kept = [make_codec("cost:0.3").encode(x.to(device), layout)[1].indices for device in ("cpu", "cuda")]
    assert torch.equal(kept[0], kept[1].cpu())
