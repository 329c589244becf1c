"""The most bytes that a payload can have. Oracle: payloads of vectors of every kind, and the count by hand."""

import pytest
import torch

from compression import Layout, make_codec

_SHAPES = {"conv": (8, 4, 3, 3), "conv.bias": (8,), "fc": (10, 32), "fc.bias": (10,), "scale": (1,)}
_LAYOUT = Layout(tuple(_SHAPES), tuple(_SHAPES.values()))
_VECTORS = {
    "normal": lambda n: torch.randn(n, generator=torch.Generator().manual_seed(0)),
    "equal": lambda n: torch.ones(n),
    "zeros": lambda n: torch.zeros(n),
    "one": lambda n: torch.eye(1, n)[0],
}
_SELECTORS = (
    "",
    "topk:0.01",
    "topk:0.3,scope=layer",
    "prune:0.9",
    "threshold:0.5",
    "randk:0.2",
    "cost:0.1",
    "powersgd:3",
)
_VALUES = ("fp32", "bf16", "int8", "int4", "log3", "log2", "sign", "qsgd:7")


@pytest.mark.parametrize("coded", ["", "+zstd"])
@pytest.mark.parametrize("value", _VALUES)
@pytest.mark.parametrize("selector", _SELECTORS)
def test_no_payload_is_longer(selector: str, value: str, coded: str) -> None:
    """Of no codec, for vectors with all, some and no equal coordinates."""
    codec = make_codec("+".join(filter(None, (selector, value))) + coded)
    for name, make in _VECTORS.items():
        payload, _ = codec.encode(make(_LAYOUT.total), _LAYOUT, key=1)
        assert payload.numel() <= codec.most_bytes(_LAYOUT), name


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        ("none", 627),
        ("topk:0.01", 6),
        ("topk:0.01,scope=layer", 3 + 1 + 3 + 1 + 1),
        ("randk:0.2", 125),
        ("prune:0.9", 627),
    ],
)
def test_bounds_by_hand(spec: str, kept: int) -> None:
    """12 bytes for each of the most coordinates that a selector takes of 288 + 8 + 320 + 10 + 1 = 627, and 4,096 besides."""
    assert make_codec(spec).most_bytes(_LAYOUT) == 4096 + 12 * kept
