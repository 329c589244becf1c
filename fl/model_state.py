"""The global model as flat vectors: what is exchanged, what is averaged, and what stays."""

import hashlib

import torch
from torch import Tensor, nn

from compression import Layout

from .errors import ConfigError
from .to_host import to_host


class ModelState:
    """The global model between rounds.

    `parameters`: fp32 [n], every trainable parameter in the model's order; changed by the server optimizer.
    `buffers`: fp32 [m], every floating-point buffer (BatchNorm's running mean and variance); averaged, never optimised.
    Frozen parameters and integer buffers (BatchNorm's step counter, which nothing reads) keep their first values and
    are not exchanged; nor are buffers that are no part of the model's state. A tensor with several names is exchanged once.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        everything = model.state_dict(keep_vars=True)
        averaged = [(name, b) for name, b in model.named_buffers() if b.is_floating_point() and name in everything]
        canonical = {id(tensor): name for name, tensor in trainable + averaged}
        self._aliases = {name: canonical[id(tensor)] for name, tensor in everything.items() if id(tensor) in canonical}
        self.layout = Layout.of(trainable)
        if self.layout.total >= 1 << 32:
            raise ConfigError(
                f"--model has {self.layout.total:,} parameters to train; a payload holds fewer than 2^32 = {1 << 32:,}"
            )
        self.buffer_layout = Layout.of(averaged)
        self.parameters = self.layout.gather([p for _, p in trainable], torch.empty(self.layout.total, device=device))
        self.buffers = self.buffer_layout.gather(
            [b for _, b in averaged], torch.empty(self.buffer_layout.total, device=device)
        )
        self._fixed = {
            name: tensor.detach().clone() for name, tensor in everything.items() if name not in self._aliases
        }

    def load_into(self, model: nn.Module) -> None:
        """Copy the global model into `model`, fixed tensors included."""
        own = model.state_dict(keep_vars=True)
        self.layout.scatter(self.parameters, [own[name] for name in self.layout.names])
        self.buffer_layout.scatter(self.buffers, [own[name] for name in self.buffer_layout.names])
        with torch.no_grad():
            for name, value in self._fixed.items():
                own[name].copy_(value)

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

    def state_dict(self) -> dict[str, Tensor]:
        """The whole model by name, on the CPU."""
        named = dict(zip(self.layout.names, self.layout.views(self.parameters), strict=True))
        named.update(zip(self.buffer_layout.names, self.buffer_layout.views(self.buffers), strict=True))
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
