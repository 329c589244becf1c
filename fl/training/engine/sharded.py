"""Local training with weights, gradients and moments shared out among a client's ranks (FSDP2)."""

import copy
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F

from fl.common.config import TrainOptions
from fl.common.errors import explained
from fl.common.ranks import Ranks
from fl.models.own_state import OwnState

from .base import Loss
from .peers import mean_loss, own_group, share_of
from .plain import PlainEngine


class ShardedEngine(PlainEngine):
    """The steps of `PlainEngine` on a copy of `model`, of whose weights, gradients and moments each of the client's ranks
    holds a part.

    A layer is gathered when a batch goes through it: each element of an `nn.Sequential` or `nn.ModuleList` by itself, what
    is left of the model at once. Every rank must use the same layers in a step, and must not fail inside one: the others
    would wait for it in FSDP's collectives. Hooks on the gradients of `model` see nothing.
    """

    name: ClassVar[str] = "fsdp"

    def __init__(
        self,
        options: TrainOptions,
        model: nn.Module,
        device: torch.device,
        loss: Loss = F.cross_entropy,
        *,
        peers: Ranks,
    ) -> None:
        super().__init__(options, model, device, loss, peers)
        self._ranks = peers
        self.network = copy.deepcopy(self.model)
        self.network._apply(lambda tensor: tensor.contiguous())  # FSDP takes no others
        group = own_group(peers)
        # DTensor's caches, which outlive a group, take meshes of the same name and ranks for one.
        mesh = DeviceMesh.from_group(group, device.type, mesh_dim_names=(f"peers {group.group_name}",))
        lists = [each for each in self.network.modules() if isinstance(each, nn.Sequential | nn.ModuleList)]
        parts = dict.fromkeys(
            child for each in reversed(lists) for child in each if any(True for _ in child.parameters())
        )
        with explained("--engine fsdp"):
            for part in (*parts, self.network):  # inner ones first
                fully_shard(part, mesh=mesh)
        self._own = OwnState(self.network, dict(self.network.named_buffers()))
        self._params = [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @torch.no_grad()
    def start(self, lr: float, done: int = 0) -> None:
        """Begin a client: this rank's part of the weights in `model`, and a new optimizer of it."""
        self._own.put_back()
        for part, whole in zip(self.network.parameters(), self.model.parameters(), strict=True):
            assert isinstance(part, DTensor)
            part.copy_(distribute_tensor(whole, part.device_mesh, part.placements, src_data_rank=None))
        for own, buffer in zip(self.network.buffers(), self.model.buffers(), strict=True):
            own.copy_(buffer)
        super().start(lr, done)
        self.network.train()

    @torch.no_grad()
    def finish(self) -> None:
        """End the client: gather the weights in `model`."""
        self._meet()
        super().finish()
        for part, whole in zip(self.network.parameters(), self.model.parameters(), strict=True):
            assert isinstance(part, DTensor)
            whole.copy_(part.full_tensor())
        for own, buffer in zip(self.network.buffers(), self.model.buffers(), strict=True):
            buffer.copy_(own)

    def _accumulate(
        self, x: Tensor, y: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor], backward: Callable[[Tensor], object]
    ) -> Tensor:
        self._meet()
        own, targets, weight = share_of(self._ranks, x, y)
        with self._ranks.together():
            loss = loss_of(own, targets) * weight
        backward(loss)  # which averages gradients over the ranks
        return mean_loss(self._ranks, loss)

    def _meet(self) -> None:
        """A rank that has failed since it was here tells the others, who would wait for it in what comes next."""
        with self._ranks.together():
            pass
