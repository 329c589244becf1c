"""The global model as flat vectors: what is exchanged, what is averaged, and what stays."""

import copy
import hashlib

import torch
from torch import Tensor, nn

from compression import Layout
from compression.wire import Sparse
from fl.common.errors import ConfigError
from fl.common.tensors import to_host

from .own_state import OwnState
from .surgery.cut import averaged


class ModelState:
    """The global model between rounds.

    `parameters`: fp32 [n], every trainable parameter in the model's order; changed by the server optimizer.
    `buffers`: fp32 [m], every floating-point buffer (BatchNorm's running mean and variance), and counts and flags that
    change in training; averaged, never optimised. Counts and flags are rounded when they are loaded.
    Frozen parameters, other buffers of integers (BatchNorm's step counter, tables) and tables with infinities (masks of
    attention) have their first values at the beginning of every client's training and are not exchanged; so it is with
    buffers that are no part of the model's state, and with what modules keep in attributes (see `OwnState`). A tensor
    with several names is exchanged once.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        everything = model.state_dict(keep_vars=True)
        buffers = averaged(model)
        canonical = {id(tensor): name for name, tensor in trainable + buffers}
        self._aliases = {name: canonical[id(tensor)] for name, tensor in everything.items() if id(tensor) in canonical}
        self.layout = Layout.of(trainable)
        if self.layout.total >= 1 << 32:
            raise ConfigError(
                f"--model has {self.layout.total:,} parameters to train; a payload holds fewer than 2^32 = {1 << 32:,}"
            )
        self.buffer_layout = Layout.of(buffers)
        self._types = {name: tensor.dtype for name, tensor in buffers}
        self.parameters = self.layout.gather([p for _, p in trainable], torch.empty(self.layout.total, device=device))
        self.buffers = self.buffer_layout.gather(
            [b for _, b in buffers], torch.empty(self.buffer_layout.total, device=device)
        )
        self._fixed = {
            name: tensor.detach().clone() for name, tensor in everything.items() if name not in self._aliases
        }
        self._own = OwnState(model, everything)

    def between(self, begin: int, end: int) -> "ModelState":
        """This state with the parameters from `begin` to `end` alone, in the same memory, and all buffers."""
        part = copy.copy(self)
        part.parameters = self.parameters[begin:end]
        return part

    def load_into(self, model: nn.Module) -> None:
        """Copy the global model into `model`, fixed tensors included; what the model keeps for itself begins anew."""
        self._own.put_back()
        own = model.state_dict(keep_vars=True)
        self.layout.scatter(self.parameters, [own[name] for name in self.layout.names])
        self.buffer_layout.scatter(self.whole_buffers(), [own[name] for name in self.buffer_layout.names])
        with torch.no_grad():
            for name, value in self._fixed.items():
                own[name].copy_(value)

    def whole_buffers(self) -> Tensor:
        """The buffers as a model holds them, fp32 [m]: means of counts and flags rounded to whole numbers."""
        if all(kind.is_floating_point for kind in self._types.values()):
            return self.buffers
        values = self.buffers.clone()
        for view, kind in zip(self.buffer_layout.views(values), self._types.values(), strict=True):
            if not kind.is_floating_point:
                view.round_()
        return values

    def subtract_local(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """The update of a trained `model`, fp32 [n]: global minus local; and its buffers, fp32 [m]."""
        own = model.state_dict(keep_vars=True)
        local = self.layout.gather([own[name] for name in self.layout.names], torch.empty_like(self.parameters))
        buffers = self.buffer_layout.gather(
            [own[name] for name in self.buffer_layout.names], torch.empty_like(self.buffers)
        )
        return torch.sub(self.parameters, local, out=local), buffers

    def read_parameters(self, model: nn.Module) -> None:
        """Take over the trainable parameters of `model`, bit for bit."""
        own = model.state_dict(keep_vars=True)
        self.layout.gather([own[name] for name in self.layout.names], self.parameters)

    def has_negative_variance(self, buffers: Sparse) -> bool:
        """Whether any of these `buffers`, of all m, is a running variance below 0."""
        values = buffers.dense()
        views = zip(self.buffer_layout.names, self.buffer_layout.views(values), strict=True)
        lowest = [view.min() for name, view in views if name.endswith("running_var") and view.numel()]
        return bool(lowest) and bool((torch.stack(lowest) < 0).any())  # read once: a GPU waits at every look

    def state_dict(self) -> dict[str, Tensor]:
        """The whole model by name, on the CPU."""
        named = dict(zip(self.layout.names, self.layout.views(self.parameters), strict=True))
        views = self.buffer_layout.views(self.whole_buffers())
        named.update({name: view.to(self._types[name]) for name, view in zip(self._types, views, strict=True)})
        named = {name: named[canonical] for name, canonical in self._aliases.items()}
        named.update(self._fixed)
        return {name: tensor.clone() for name, tensor in to_host(named).items()}

    def sha256(self) -> str:
        """Digest of every parameter's and buffer's name and bytes, in name order."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
