"""Layout. Oracle: torch.cat and slicing."""

import torch

from compression import Layout


def tensors() -> list[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last)
    return [
        ("image", image),
        ("scalar", torch.tensor(3.0)),
        ("empty", torch.empty(0, 4)),
        ("vector", torch.arange(6.0)),
    ]


def test_sizes_and_offsets() -> None:
    """By hand."""
    layout = Layout.of(tensors())
    assert layout.names == ("image", "scalar", "empty", "vector")
    assert layout.shapes == ((2, 3, 4, 5), (), (0, 4), (6,))
    assert layout.sizes == (120, 1, 0, 6)
    assert layout.offsets == (0, 120, 121, 121, 127)
    assert layout.total == 127
    assert layout == Layout.of(iter(tensors()))


def test_gather_and_scatter() -> None:
    """gather is torch.cat of the flattened tensors whatever their memory format; scatter is its inverse."""
    named = tensors()
    layout = Layout.of(named)
    out = torch.full((layout.total,), 9.0)
    flat = layout.gather([tensor for _, tensor in named], out)
    assert flat is out
    assert torch.equal(flat, torch.cat([tensor.flatten() for _, tensor in named]))
    copies = [torch.zeros_like(tensor) for _, tensor in named]
    layout.scatter(flat, copies)
    for (_, tensor), copy in zip(named, copies, strict=True):
        assert torch.equal(copy, tensor)
        assert copy.stride() == tensor.stride()


def test_works_on_parameters_and_other_dtypes() -> None:
    """Parameters that require gradients are read and written; bf16 is converted on the way."""
    parameter = torch.nn.Parameter(torch.arange(3.0))
    half = torch.tensor([0.5], dtype=torch.bfloat16)
    layout = Layout.of([("p", parameter), ("h", half)])
    flat = layout.gather([parameter, half], torch.empty(4))
    assert flat.tolist() == [0, 1, 2, 0.5]
    assert not flat.requires_grad
    layout.scatter(flat + 1, [parameter, half])
    assert parameter.tolist() == [1, 2, 3]
    assert half.tolist() == [1.5]


def test_views_share_memory() -> None:
    """Writing to a view writes to the vector."""
    layout = Layout.of(tensors())
    flat = torch.zeros(layout.total)
    for number, view in enumerate(layout.views(flat), start=1):
        view.fill_(number)
    assert flat.tolist() == [1.0] * 120 + [2.0] + [4.0] * 6


def test_no_tensors_at_all() -> None:
    """A model without BatchNorm has no statistics to lay out."""
    layout = Layout.of([])
    assert (layout.total, layout.views(torch.empty(0))) == (0, [])
    assert layout.gather([], torch.empty(0)).numel() == 0
    layout.scatter(torch.empty(0), [])
