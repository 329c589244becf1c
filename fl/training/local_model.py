"""The model that a client trains: the whole one, the whole one under a mask, or a smaller one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compression import Layout
from fl.models.own_state import OwnState
from fl.models.state import ModelState
from fl.models.submodel import Submodel
from fl.models.surgery.cut import SmallerModel, averaged

from .engine.base import LocalEngine
from .gradients import MaskedGradients


class LocalModel(ABC):
    """`load`, then train `engine.model` with `engine`, then `read`."""

    engine: LocalEngine

    @abstractmethod
    def load(self, own: Mapping[str, Tensor]) -> None:
        """Copy the client's submodel into `engine.model`; `own`: what `keep` gave the last time, empty at first."""

    @abstractmethod
    def read(self) -> tuple[Tensor, Tensor]:
        """The client's update, fp32 [n], global minus local and zero outside its submodel, and the buffers it holds, [b]."""

    def keep(self) -> dict[str, Tensor]:
        """After `read`: weights of its own that the client keeps until its next round."""
        return {}


class WholeModel(LocalModel):
    """The full global model."""

    def __init__(self, engine: LocalEngine, state: ModelState) -> None:
        self.engine = engine
        self.state = state

    def load(self, own: Mapping[str, Tensor]) -> None:
        self.state.load_into(self.engine.model)

    def read(self) -> tuple[Tensor, Tensor]:
        return self.state.subtract_local(self.engine.model)


class MaskedModel(WholeModel):
    """The whole model with zeros outside `submodel`. `squares`, fp32 [n]: g^2 of every step is added to it."""

    def __init__(
        self,
        engine: LocalEngine,
        state: ModelState,
        gradients: MaskedGradients,
        submodel: Submodel,
        squares: Tensor | None = None,
    ) -> None:
        super().__init__(engine, state)
        self.gradients = gradients
        self.submodel = submodel
        self.squares = squares

    def load(self, own: Mapping[str, Tensor]) -> None:
        super().load(own)
        layout = self.state.layout
        self.gradients.use(self.submodel.masks(layout), None if self.squares is None else layout.views(self.squares))
        zero_outside(self.engine.model, layout, self.submodel)

    def read(self) -> tuple[Tensor, Tensor]:
        values, buffers = super().read()
        self.gradients.use([])
        return self.submodel.mask_(values), self.submodel.gather_buffers(buffers)


@torch.no_grad()
def zero_outside(model: nn.Module, layout: Layout, submodel: Submodel) -> None:
    """Zero the parameters of `model` that `layout` names where `submodel` does not hold them."""
    named = dict(model.named_parameters())
    for name, mask in zip(layout.names, submodel.masks(layout), strict=False):  # no masks: all is held
        named[name].mul_(mask)


class LocalSmallerModel(LocalModel):
    """A smaller dense model. `buffers`: whether its running statistics are the client's to send."""

    def __init__(self, engine: LocalEngine, state: ModelState, sub: SmallerModel, *, buffers: bool = True) -> None:
        self.engine = engine
        self.state = state
        self.sub = sub
        self.buffers = buffers
        # As the sub-model orders them; an engine may have changed their memory format, not their names.
        named = dict(engine.model.named_parameters())
        self._tensors = [named[name] for name, p in sub.model.named_parameters() if p.requires_grad]
        self._layout = Layout.of((str(i), tensor) for i, tensor in enumerate(self._tensors))
        exchanged = [name for name, _ in averaged(engine.model)] if buffers else []
        self._own = OwnState(engine.model, exchanged)

    def load(self, own: Mapping[str, Tensor]) -> None:
        self._own.put_back()
        buffers = self.state.whole_buffers() if self.buffers else None
        self.sub.gather_into(self.engine.model, self.state.parameters, buffers)

    def read(self) -> tuple[Tensor, Tensor]:
        held = self.state.parameters.index_select(0, self.sub.coordinates)
        held -= self._layout.gather(self._tensors, torch.empty_like(held))
        values = torch.zeros_like(self.state.parameters).index_copy_(0, self.sub.coordinates, held)
        if not self.buffers:
            return values, values.new_empty(0)
        named = averaged(self.engine.model)
        layout = Layout.of(named)
        return values, layout.gather([b for _, b in named], values.new_empty(layout.total))
