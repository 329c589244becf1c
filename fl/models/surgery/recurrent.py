"""Hidden units of an LSTM as channels: which units are read by what.

torch-pruning cannot follow an LSTM. For tracing, one linear map per layer and direction stands in its place, because
only the question which unit feeds which layer matters. A hidden unit owns its row in each of the four gates (of the
input, the hidden state and both biases), its column of the hidden state, and a column of whatever reads it. A unit with
all of these zero outputs zero: its gates are 1/2 and its candidate is 0, so cell and output stay 0.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence


class UnitsOf(nn.Linear):
    """Stands for one layer and direction, `suffix` (`_l0`, `_l0_reverse`, ...), of the LSTM called `owner`."""

    def __init__(self, lstm: nn.LSTM, owner: str, suffix: str, inputs: int) -> None:
        example = next(lstm.parameters())
        super().__init__(inputs, lstm.hidden_size, bias=False, device=example.device, dtype=example.dtype)
        self.owner, self.suffix, self.biased = owner, suffix, lstm.bias

    def reset_parameters(self) -> None:
        """Ones: a drawn number would change the global random state, and values do not matter."""
        nn.init.ones_(self.weight)

    def tensor(self, name: str) -> str:
        """The full name of the LSTM's tensor `name`, such as `weight_ih`."""
        return f"{self.owner}.{name}{self.suffix}" if self.owner else name + self.suffix


class _StandIn(nn.Module):
    """Takes and returns what an LSTM does; outputs depend on inputs through linear maps."""

    def __init__(self, lstm: nn.LSTM, owner: str) -> None:
        super().__init__()
        self.batch_first = lstm.batch_first
        suffixes = [
            name.removeprefix("weight_ih") for name, _ in lstm.named_parameters() if name.startswith("weight_ih")
        ]
        self.directions = 1 + lstm.bidirectional
        for i, suffix in enumerate(suffixes):
            inputs = lstm.input_size if i < self.directions else lstm.hidden_size * self.directions
            self.add_module(suffix, UnitsOf(lstm, owner, suffix, inputs))

    def forward(self, x: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        """As of nn.LSTM; a packed sequence is taken as one sequence of all its steps."""
        packed = x if isinstance(x, PackedSequence) else None
        y = x.data[:, None] if isinstance(x, PackedSequence) else x
        units = list(self.children())
        hidden = []
        for first in range(0, len(units), self.directions):
            made = [unit(y) for unit in units[first : first + self.directions]]
            hidden += [out[:, -1] if self.batch_first or packed is not None else out[-1] for out in made]
            y = torch.cat(made, -1) if len(made) > 1 else made[0]
        last = torch.stack(hidden)
        if packed is None:
            return y, (last, last)
        last = last[:, : int(packed.batch_sizes[0])]
        return PackedSequence(y[:, 0], *packed[1:]), (last, last)

    def flatten_parameters(self) -> None:
        """Nothing to do; models call it."""


def stand_ins(model: nn.Module) -> nn.Module:
    """`model` with every LSTM replaced by its stand-in, in place. ValueError for a projected LSTM (`proj_size`)."""
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.LSTM):
            continue
        if module.proj_size:
            raise ValueError(f"the LSTM '{name}' has proj_size {module.proj_size}; only without one can it be pruned")
        stand_in = _StandIn(module, name)
        if not name:
            return stand_in
        model.set_submodule(name, stand_in)
    return model


def stands_for(module: nn.Module, name: str) -> list[str]:
    """Names that the parts of the stand-in of `module` have; none if it is not an LSTM."""
    if not isinstance(module, nn.LSTM):
        return []
    prefix = name + "." if name else ""
    return [
        prefix + key.removeprefix("weight_ih") for key, _ in module.named_parameters() if key.startswith("weight_ih")
    ]
