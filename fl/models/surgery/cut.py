"""A smaller dense model cut out of a larger one, and where each of its numbers lies in the larger one."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compression.layout import Layout
from compression.wire import Sparse

from .axes import fit
from .group import Group

AVERAGED_COUNTS = "averaged_counts"
FIXED_TABLES = "fixed_tables"


@dataclass(frozen=True, eq=False)
class SmallerModel:
    """A smaller model and its coordinates in the full one.

    `model`: an ordinary dense module. `coordinates`: ascending int64 [m], for every trainable parameter of `model` in
    its own order, where its entries lie in the flat vector [n] of the full model's. `buffers`: the same for the
    floating-point buffers that belong to the state (BatchNorm's statistics), in the flat vector [buffer_total]. `kept`:
    for each group of channels the ascending int64 numbers of those kept.
    """

    model: nn.Module
    n: int
    coordinates: Tensor
    buffer_total: int
    buffers: Tensor
    kept: tuple[Tensor, ...]

    def gather_into(self, model: nn.Module, flat: Tensor, buffers: Tensor | None = None) -> None:
        """Load this sub-model's part of the full model into `model`, which is `self.model` or a copy of it.

        `flat`: [n], all trainable parameters; `buffers`: [buffer_total]. What is neither stays as it was when the
        sub-model was cut.
        """
        named = _trainable(model)
        Layout.of(named).scatter(flat.index_select(0, self.coordinates), [tensor for _, tensor in named])
        if buffers is not None:
            named = averaged(model)
            Layout.of(named).scatter(buffers.index_select(0, self.buffers), [tensor for _, tensor in named])

    def scatter(self, values: Tensor) -> Sparse:
        """Values [m] of the sub-model's trainable parameters as a vector of the full model's [n]."""
        return Sparse(self.n, self.coordinates, values)

    def zero_outside(self, model: nn.Module) -> None:
        """Zero, in place, every trainable coordinate of the full `model` that is not held: in evaluation it then
        computes what the sub-model does."""
        named = _trainable(model)
        with torch.no_grad():
            for (_, tensor), held in zip(named, Layout.of(named).views(self.mask()), strict=True):
                tensor.mul_(held)

    def mask(self) -> Tensor:
        """Which of the full model's coordinates are held, bool [n]."""
        held = torch.zeros(self.n, dtype=torch.bool, device=self.coordinates.device)
        return held.index_fill_(0, self.coordinates, True)


def cut(model: nn.Module, groups: Sequence[Group], kept: Sequence[Tensor]) -> SmallerModel:
    """The sub-model of `model` with channels `kept[i]` (ascending int64) of `groups[i]`, on the model's device.

    `model` does not change. Frozen parameters and other fixed tensors are cut too, with their present values.
    """
    device = next(model.parameters()).device
    slices = _slices(model, groups, kept, device)
    tensors = (*model.named_parameters(), *model.named_buffers())
    # The copy shares every tensor, and every one is then replaced: nothing is copied that will not be held.
    small = deepcopy(model, {id(tensor): tensor for _, tensor in tensors})
    shrunk: dict[int, Tensor] = {}
    for name, tensor in tensors:
        value = _take(tensor.detach(), slices.get(name, {})).clone(memory_format=torch.contiguous_format)
        is_parameter = isinstance(tensor, nn.Parameter)
        shrunk[id(tensor)] = nn.Parameter(value, requires_grad=tensor.requires_grad) if is_parameter else value
    for name, tensor in _all_names(model):
        owner, _, leaf = name.rpartition(".")
        setattr(small.get_submodule(owner), leaf, shrunk[id(tensor)])
    for module in small.modules():
        fit(module)
    n, coordinates = _where(_trainable(model), slices, device)
    buffer_total, buffers = _where(averaged(model), slices, device)
    return SmallerModel(small, n, coordinates, buffer_total, buffers, tuple(kept))


def _all_names(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers under all their names: tensors that layers share have several."""
    parameters = model.named_parameters(remove_duplicate=False)
    return [*parameters, *model.named_buffers(remove_duplicate=False)]


def _slices(
    model: nn.Module, groups: Sequence[Group], kept: Sequence[Tensor], device: torch.device
) -> dict[str, dict[int, Tensor]]:
    """For every tensor that shrinks: the slices that stay, by dimension; int64 on `device`."""
    shapes = {name: tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    stay: dict[str, dict[int, Tensor]] = {}
    for group, chosen in zip(groups, kept, strict=True):
        dropped = torch.ones(group.channels, dtype=torch.bool, device="cpu")
        dropped[chosen.cpu()] = False
        for part in group.cuts:
            if part.tensor not in shapes:
                raise ValueError(f"'{part.tensor}' shares its weights with another layer; such layers cannot be pruned")
            held = stay.setdefault(part.tensor, {})
            whole = torch.ones(shapes[part.tensor][part.dim], dtype=torch.bool, device="cpu")
            flags = held.setdefault(part.dim, whole)
            flags[part.positions[dropped[part.channels]]] = False
    found = [flags.nonzero().view(-1) for dims in stay.values() for flags in dims.values()]
    # All in one copy: the host waits for each.
    moved = iter(torch.cat(found).to(device).split([len(each) for each in found]) if found else ())
    return {name: {dim: next(moved) for dim in dims} for name, dims in stay.items()}


def _take(tensor: Tensor, slices: dict[int, Tensor]) -> Tensor:
    for dim, index in slices.items():
        tensor = tensor.index_select(dim, index)
    return tensor


def _where(
    named: list[tuple[str, Tensor]], slices: dict[str, dict[int, Tensor]], device: torch.device
) -> tuple[int, Tensor]:
    """How many coordinates `named` tensors have in all, and those that stay: ascending int64 on `device`."""
    layout = Layout.of(named)
    parts = []
    for (name, tensor), start, size in zip(named, layout.offsets, layout.sizes, strict=False):
        own = torch.arange(start, start + size, device=device).view(tensor.shape)
        parts.append(_take(own, slices.get(name, {})).flatten())
    return layout.total, torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=device)


def _trainable(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]


def averaged(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers that belong to the state and are averaged, by name: floating-point ones (running statistics) but those that
    their module names in an attribute `fixed_tables`, and those of whole numbers and truth values that it names in
    `averaged_counts`."""
    state = model.state_dict(keep_vars=True)
    named = [(name, b) for name, b in model.named_buffers() if name in state]
    return [
        (name, b)
        for name, b in named
        if (
            not _is_listed(model, name, FIXED_TABLES)
            if b.is_floating_point()
            else _is_listed(model, name, AVERAGED_COUNTS)
        )
    ]


def _is_listed(model: nn.Module, name: str, attribute: str) -> bool:
    owner, _, leaf = name.rpartition(".")
    return leaf in getattr(model.get_submodule(owner), attribute, ())
