"""Encode and decode on the double. Oracle: the bytes and bits of the CPU; how often the host waited when this was written.

Each codec with Triton's kernels, which are compiled with the very arguments they get, and with PyTorch's alone.
"""

import contextlib

import pytest
import torch

from compression import Layout, Sender, kernels, make_codec
from tests.cuda_double import double
from tests.cuda_double.recorder import recorder

SHAPES = ((16, 3, 3, 3), (16,), (32, 16, 3, 3), (32,), (40, 300), (40,))
LAYOUT = Layout(tuple(f"{i}.{'weight' if len(shape) > 1 else 'bias'}" for i, shape in enumerate(SHAPES)), SHAPES)

MOST = {
    "none": {"triton": (2, 2, 8, 7), "torch": (2, 2, 8, 7)},
    "bf16+zstd": {"triton": (4, 4, 17, 12), "torch": (4, 4, 17, 12)},
    "int8": {"triton": (6, 6, 44, 33), "torch": (6, 6, 102, 33)},
    "log3+zstd": {"triton": (8, 9, 273, 125), "torch": (8, 9, 273, 125)},
    "sign": {"triton": (6, 6, 83, 32), "torch": (6, 6, 94, 41)},
    "topk:0.03": {"triton": (10, 14, 104, 52), "torch": (16, 14, 195, 119)},
    "topk:0.03+log3+zstd": {"triton": (22, 21, 408, 169), "torch": (28, 21, 576, 236)},
    "topk:0.1,scope=layer+bf16": {"triton": (10, 13, 175, 43), "torch": (46, 13, 273, 83)},
    "prune:0.95+int8": {"triton": (16, 17, 131, 72), "torch": (16, 17, 260, 130)},
    "threshold:0.1+fp16": {"triton": (11, 14, 87, 44), "torch": (11, 14, 125, 75)},
    "randk:0.05+int4": {"triton": (7, 7, 77, 63), "torch": (7, 7, 146, 72)},
    "cost:0.05+qsgd:7+zstd": {"triton": (46, 20, 320, 84), "torch": (46, 20, 524, 142)},
    "powersgd:2+bf16": {"triton": (9, 4, 82, 24), "torch": (9, 4, 82, 24)},
}
"""Waits of the host in an encode and in a decode, then kernels in each: no more than these."""


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
@pytest.mark.parametrize("spec", MOST)
def test_a_codec(spec: str, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes and bits as on the CPU, for few kernels and waits."""
    monkeypatch.setattr(double, "INEXACT", True)
    x, name = update(), f"{spec} {by}"
    with kernels.switched_off() if by == "torch" else contextlib.nullcontext():
        found = messages(spec, x.cuda(), name)
    for a, b in zip(found, messages(spec, x, "cpu"), strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes()
    seen = [recorder.regions[f"{name} {step} 1"] for step in ("encode", "decode")]
    counts = tuple(each.waits.total() for each in seen) + tuple(each.kernels for each in seen)
    assert all(count <= most for count, most in zip(counts, MOST[spec][by], strict=True)), (
        f"{counts}\n{seen[0]}\n{seen[1]}"
    )


@pytest.mark.parametrize("n", [1, 9, 40])
@pytest.mark.parametrize("spec", ["topk:0.3+log3+zstd", "prune:0.5+int4"])
def test_a_few_coordinates(spec: str, n: int) -> None:
    """Vectors so short that numbers of values are 1, which Triton compiles into its kernels."""
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
