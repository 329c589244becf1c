"""`--fragments P`: the model in P parts, of which each round exchanges one (Streaming DiLoCo: Douillard et al. 2025)."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from compression.masks.inside import MaskedLayout
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel
from fl.training.engine.base import LocalEngine
from fl.training.local_model import WholeModel

from .plan import SubmodelPlan


class Fragments(SubmodelPlan):
    """Clients train all of the model and keep their own weights of it; round r exchanges fragment r mod P.

    A fragment is a P-th of the flat vector, in order: the paper's sequential pattern, cut so that all have the same size.
    The update of one is global minus local since it was last exchanged. The new global weights of it come to a client at
    the beginning of its next round, as `merge` times its own plus 1 - `merge` times the global ones. With `overlap` they
    come a round later, since they travel while it trains: the paper's delay, of one round.
    """

    differs: ClassVar[bool] = True  # what a round does not exchange keeps its value and its moments
    kept_vectors: ClassVar[int] = 1

    def __init__(
        self, engine: LocalEngine, state: ModelState, fragments: int, merge: float, *, overlap: bool = False
    ) -> None:
        super().__init__(state, WholeModel(engine, state))
        self._merge = merge
        self._delay = int(overlap)
        n = state.parameters.numel()
        self.bounds = [part * n // fragments for part in range(fragments + 1)]
        self._submodel = WHOLE

    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        mask = torch.zeros_like(self.state.parameters, dtype=torch.bool)
        mask[self.exchanged(round_)] = True
        self._submodel = Submodel(MaskedLayout(mask, self.state.layout), in_turn=True)

    def exchanged(self, round_: int) -> slice:
        """The coordinates that a round exchanges."""
        part = round_ % (len(self.bounds) - 1)
        return slice(*self.bounds[part : part + 2])

    def submodel(self, client: int) -> Submodel:
        return self._submodel

    @property
    def published(self) -> Submodel:
        return self._submodel

    def local(self, client: int, round_: int) -> "FragmentedModel":
        return FragmentedModel(self.whole.engine, self.state, self, round_)

    def held(self, client: int) -> int:
        return self.state.layout.total

    def merged(self, local: Tensor, since: int, round_: int) -> Tensor:
        """The weights, fp32 [n], with which a client begins a round that ended round `since` with `local`."""
        weights = local.to(self.state.parameters.device, copy=True)
        for each in self._come(since, round_):
            part = self.exchanged(each)
            weights[part] = self.state.parameters[part].lerp(weights[part], self._merge)
        return weights

    def begins_early(self, own: Mapping[str, Tensor], round_: int) -> bool:
        last = self.exchanged(round_ - 1)
        came = [self.exchanged(each) for each in self._come(int(own["round"]), round_)] if own else [last]
        return last not in (*came, self.exchanged(round_))

    def _come(self, since: int, round_: int) -> range:
        """The rounds whose fragments a client that ended round `since` takes over at the beginning of `round_`."""
        came, cycle = round_ - self._delay, len(self.bounds) - 1
        return range(max(0, since - self._delay, came - cycle), came)


class FragmentedModel(WholeModel):
    """The whole model, with the client's own weights where they have not been exchanged since its last round."""

    def __init__(self, engine: LocalEngine, state: ModelState, plan: Fragments, round_: int) -> None:
        super().__init__(engine, state)
        self._plan = plan
        self._round = round_
        self._kept: dict[str, Tensor] = {}

    def load(self, own: Mapping[str, Tensor]) -> None:
        super().load(own)
        if own:
            weights = self._plan.merged(own["weights"], int(own["round"]), self._round)
            self.state.layout.scatter(weights, self._parameters())

    def read(self) -> tuple[Tensor, Tensor]:
        local = self.state.layout.gather(self._parameters(), torch.empty_like(self.state.parameters))
        self._kept = {"weights": local, "round": torch.tensor(self._round, device="cpu")}
        update, buffers = super().read()
        part = self._plan.exchanged(self._round)
        for outside in (update[: part.start], update[part.stop :]):
            outside.mul_(0).abs_()  # NaN stays, and is found; 0 has one sign
        return update, buffers

    def keep(self) -> dict[str, Tensor]:
        return self._kept

    def _parameters(self) -> list[Tensor]:
        own = self.engine.model.state_dict(keep_vars=True)
        return [own[name] for name in self.state.layout.names]
