"""A program around the library may have called `torch.set_default_device`. Oracle: the same without it.

The default device here is `meta`, whose tensors hold no numbers: one that is made there by mistake cannot be used.
"""

import pytest
import torch
from torch import nn

from compression import Layout, Sender, make_codec
from fl.models.surgery.channels import find_groups
from fl.pruning.structured import shrink
from tests.compression.cases import ROUNDED, SPECS

LAYOUT = Layout(("conv.weight", "conv.bias", "linear.weight"), ((6, 2, 3, 3), (6,), (10, 31)))


@pytest.mark.parametrize(
    "spec", sorted({"none", "csr_codec:csr", "powersgd:2", *(s for s in SPECS if s.startswith(ROUNDED))})
)
def test_codecs(spec: str) -> None:
    """Payload, what is decoded from it, and what the sender remembers."""
    x = torch.randn(LAYOUT.total, generator=torch.Generator().manual_seed(0))

    def message() -> list[torch.Tensor]:
        sender = Sender(make_codec(spec))
        payload, decoded = sender.encode(x.clone(), LAYOUT, key=5)
        sender.keep()
        back = make_codec(spec).decode(payload, LAYOUT.total, LAYOUT)
        out = back.add_to(torch.ones(LAYOUT.total, device="cpu"), 0.5)
        return [payload, decoded.dense(), back.dense(), out, *sender.state_dict().values()]

    expected = message()
    with torch.device("meta"):
        found = message()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_smaller_models() -> None:
    """Groups of channels, and the sub-model that is cut out."""
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10))
    example = torch.zeros(1, 2, 6, 6)
    expected = shrink(model, 0.5, example)
    with torch.device("meta"):
        found = shrink(model, 0.5, groups=find_groups(model, example))
    assert torch.equal(found.coordinates, expected.coordinates)
    assert torch.equal(found.buffers, expected.buffers)
