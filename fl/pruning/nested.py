"""`--prune ...,by=server --capabilities ...`: nested submodels, each as large as its client can hold."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compression.draws import derive_key
from compression.masks.inside import MaskedLayout
from compression.masks.payload import decode_mask, encode_mask
from fl.clock.adaptive import Fractions
from fl.comm.ledger import SubmodelSize
from fl.models.submodel import WHOLE, Submodel, no_buffers
from fl.training.local_model import LocalModel

from .capacity import Recovery, density_at
from .plan import PlanInputs, PrunedPlan
from .schedule import changes_at, pruning_at
from .score import gradient
from .select import ChannelSelector, at_capability
from .width import AbsentClasses, put_scalers, windows


class Level:
    """The submodel of all clients of one capability. `mask_bytes`: of the mask's payload.

    It is made where it is used: a rank needs only those of its own clients, rank 0 those of the cohort.
    """

    def __init__(self, make: Callable[[], Submodel], mask_bytes: int) -> None:
        self._make = make
        self.mask_bytes = mask_bytes
        self.local: LocalModel | None = None
        self.absent: AbsentClasses  # the hook of `local`, where clients lack classes

    @functools.cached_property
    def submodel(self) -> Submodel:
        """Coordinates, buffers and the smaller model."""
        return self._make()


class NestedSubmodels(PrunedPlan):
    """Every client holds a submodel of its own size; these are nested, and the global model is whole.

    Rank 0 ranks all weights, or channels, when the schedule says so. A client of capability c holds the best of them, 1 -
    (1 - S) c being its sparsity. `recovery` lets the capabilities grow: the coordinates that are new to a client are sent
    to it in fp32, the same payload for all that grow from one level to the next (PR-FL). `width` has no ranking: the
    channels follow from the width and, if rolling, the round (HeteroFL, FedRolex), so no mask is ever sent. A client then
    neither sends nor votes on the rows of `class_layers` (parameters by name) for the classes that it lacks: they are in
    what it downloads, but not in its `submodel`.
    """

    differs = True
    changing = ("_levels", "_ranking", "_scores", "_begun")

    def __init__(
        self,
        inputs: PlanInputs,
        capabilities: Fractions,
        recovery: Recovery,
        *,
        absent: Sequence[Tensor] = (),
        class_layers: Sequence[str] = (),
    ) -> None:
        """`absent`: the classes that each client lacks."""
        super().__init__(inputs, capabilities)
        self.recovery = recovery
        self._absent = absent
        self._class_layers = [self.state.layout.names.index(name) for name in class_layers]
        self._newest: tuple[int, Submodel, Submodel] | None = None  # a client, what it holds and has a say in
        self._levels: dict[float, Level] = {}
        self._ranking = 0  # how many there have been
        self._begun = -1  # the last round that began
        self._scores: Tensor | None = None  # of the present ranking, on rank 0

    def capability(self, client: int) -> float:
        """The fraction of the server's model that a client holds now."""
        return density_at(self.fractions[client], self.recovery.stage)

    def columns(self, client: int) -> dict[str, float]:
        return {self.fractions.column: self.capability(client)}

    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        """A new ranking where the schedule says so, then the levels that this cohort needs."""
        self.note()
        rolls = self.pruning.method == "width" and self.pruning.shift == "rolling"
        last, self._begun, self._newest = self._begun, round_, None
        # Where nobody starts in the round of a change, it comes with the next start.
        changes = any(changes_at(self.schedule, each) for each in range(last + 1, round_ + 1))
        if round_ >= self.inputs.last_round:
            round_ = self.inputs.last_round - 1
        elif last == round_:
            pass  # with further clients
        elif not self._ranking or changes or rolls:
            self._ranking += 1
            self._levels, self._scores = {}, None
        needed = sorted({self.capability(client) for client in cohort})
        # Only those of this cohort are kept: each may be as large as the model.
        self._levels = {c: self._levels.get(c) or self._level(c, round_) for c in needed}

    def _rank(self) -> Tensor:
        if self.squares and self._ranking > 1:
            return gradient(self.squares.total).clone()
        # Until there are gradients to look at, the ranking is by magnitude.
        return self.selector.scores(self.state.parameters, derive_key(self.inputs.seed)).clone()

    def _level(self, capability: float, round_: int) -> Level:
        if self.pruning.method == "width":
            ratio = (1 - self.pruning.sparsity) * capability
            shift = round_ if self.pruning.shift == "rolling" else 0
            return Level(lambda: self._window(ratio, shift), 0)
        pruning = at_capability(pruning_at(self.pruning, self.schedule, round_), capability)
        payload = self.inputs.ranks.share(lambda: encode_mask(self.selector.choose(pruning, self._ranked(), None)))
        size = self.selector.size
        return Level(lambda: self._alone(self.selector.submodel(decode_mask(payload, size))), payload.numel())

    def _window(self, ratio: float, shift: int) -> Submodel:
        assert isinstance(self.selector, ChannelSelector)
        submodel = self.selector.submodel(self.selector.mask(windows(self.selector.groups, ratio, shift)))
        assert submodel.sub is not None
        if ratio < 1:
            put_scalers(submodel.sub, self.selector.groups, ratio)
        return self._alone(submodel)

    def _ranked(self) -> Tensor:
        """The scores of the present ranking."""
        if self._scores is None:
            self._scores = self._rank()
        return self._scores

    @property
    def static_batchnorm(self) -> bool:
        """Whether clients send no running statistics, because those of different widths are not of the same inputs."""
        return isinstance(self.selector, ChannelSelector)

    def _alone(self, submodel: Submodel) -> Submodel:
        return replace(submodel, buffers=no_buffers(self.state.buffers.device)) if self.static_batchnorm else submodel

    @property
    def published(self) -> Submodel:
        return Submodel(buffers=no_buffers(self.state.buffers.device)) if self.static_batchnorm else WHOLE

    def submodel(self, client: int) -> Submodel:
        whole = self._levels[self.capability(client)].submodel
        if not self._is_silent(client):
            return whole
        # Only the newest is kept: each may be as large as the model.
        if self._newest is None or self._newest[:2] != (client, whole):
            mask = whole.mask_(self._without_absent(client))
            self._newest = client, whole, replace(whole, inside=MaskedLayout(mask, self.state.layout))
        return self._newest[2]

    def residual_mask(self, client: int) -> Tensor | None:
        """False in the rows of classes that a client lacks, which weight decay alone moves."""
        if not self._is_silent(client):
            return None
        return self._without_absent(client)

    def _is_silent(self, client: int) -> bool:
        return bool(self._class_layers) and bool(self._absent) and self._absent[client].numel() > 0

    def _without_absent(self, client: int) -> Tensor:
        """All but the rows of classes that a client lacks, bool [n]."""
        mask = torch.ones_like(self.state.parameters, dtype=torch.bool)
        views = self.state.layout.views(mask)
        for at in self._class_layers:
            views[at].index_fill_(0, self._absent[client], False)
        return mask

    def local(self, client: int, round_: int) -> LocalModel:
        level = self._levels[self.capability(client)]
        if level.local is None:
            level.local = self.inputs.make_local(level.submodel)
            if self._absent:
                level.absent = AbsentClasses()
                level.local.engine.model.register_forward_hook(level.absent)
        if self._absent:
            level.absent.absent = self._absent[client]
        return level.local

    def observe(self, round_: int, val_score: float | None) -> None:
        """A plateau, or the schedule, lets the submodels grow."""
        if round_ < self.inputs.last_round - 1:
            self.recovery.observe(round_, val_score)

    def held(self, client: int) -> int:
        return self._levels[self.capability(client)].submodel.held(self.state.layout.total)

    def sizes(self, cohort: Sequence[int]) -> dict[int, SubmodelSize]:
        buffers = self.published.buffer_count(self.state.buffers.numel())
        return {
            client: SubmodelSize(
                self.held(client), buffers, self._ranking, self._levels[self.capability(client)].mask_bytes
            )
            for client in cohort
        }

    def state_dict(self) -> dict[str, Any]:
        """The ranking, and how far the submodels have grown."""
        state: dict[str, Any] = {"ranking": self._ranking, "begun": self._begun, "recovery": self.recovery.state_dict()}
        if self._scores is not None:
            state["scores"] = self._scores
        return {**state, "squares": self.squares.total} if self.squares else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The levels are made again when they are needed."""
        self._ranking, self._begun = state["ranking"], state["begun"]
        self._levels = {}
        if self.inputs.ranks.is_server and "scores" in state:
            self._scores = state["scores"].to(self.state.parameters.device)
        if self.squares:
            self.squares.total.copy_(state["squares"])
        self.recovery.load_state_dict(state["recovery"])
