"""From scores to a mask, and from a mask to a client's submodel: of single weights, or of whole channels."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compression import Layout
from compression.masks.inside import MaskedLayout
from compression.spec import SpecError
from fl.common.errors import ConfigError
from fl.models.state import ModelState
from fl.models.submodel import Submodel
from fl.models.surgery.channels import find_groups
from fl.models.surgery.cut import cut
from fl.models.surgery.group import Group

from .choose import budgets, choose_mask, protected_layers
from .filters import choose_filters
from .score import weight_scores
from .spec import AUTO, SMALLER, VECTORS, Pruning
from .structured import best_channels, unit_scores


class MaskSelector(ABC):
    """Makes masks: bool [size], True where held. A mask is what travels; a `Submodel` is what it means."""

    size: int

    @abstractmethod
    def scores(self, weights: Tensor, key: int = 0) -> Tensor:
        """The score of every coordinate, fp32 [n], from the weights [n] or, for random scores, from `key`."""

    @abstractmethod
    def choose(self, pruning: Pruning, scores: Tensor, held: Tensor | None) -> Tensor:
        """The mask of `pruning` by scores [n]; what `held`, an earlier mask, dropped stays dropped."""

    @abstractmethod
    def submodel(self, mask: Tensor) -> Submodel:
        """The submodel of a mask."""


class WeightSelector(MaskSelector):
    """Masks of single weights (or whole rows of them): bool [n]; the model keeps its shape."""

    def __init__(self, pruning: Pruning, layout: Layout) -> None:
        self.pruning = pruning
        self.layout = layout
        self.size = layout.total
        refuse_early(pruning, layout)

    def scores(self, weights: Tensor, key: int = 0) -> Tensor:
        return weight_scores(self.pruning.method, weights, key)

    def choose(self, pruning: Pruning, scores: Tensor, held: Tensor | None) -> Tensor:
        return choose(pruning, scores, self.layout, held=held)

    def submodel(self, mask: Tensor) -> Submodel:
        return Submodel(MaskedLayout(mask, self.layout))


class ChannelSelector(MaskSelector):
    """Masks of channels, one group after another: bool [channels in all]; what is held is a smaller dense model."""

    def __init__(self, pruning: Pruning, state: ModelState, model: nn.Module, example: Tensor) -> None:
        self.pruning = pruning
        self.layout = state.layout
        self.state = state
        self.model = model
        try:
            self.groups: Sequence[Group] = find_groups(model, example)
            self.choose(pruning, state.parameters, None)
        except ValueError as error:
            raise ConfigError(f"--prune {pruning.text}: {error}") from None
        self._check_protected()
        self.channels = [group.channels for group in self.groups]
        self.size = sum(self.channels)

    def _check_protected(self) -> None:
        makers = [maker for group in self.groups for maker in group.makers]
        for name in self._protect:
            if not any(maker == name or maker.startswith(f"{name}.") for maker in makers):
                known = ", ".join(makers)
                raise ConfigError(
                    f"--prune {self.pruning.text}: '{name}' is no layer that channels can go from; {known} are"
                )

    @property
    def _protect(self) -> list[str]:
        """Layers by name: `auto` and `vectors` say nothing of channels."""
        return [name for name in self.pruning.protect if name not in (AUTO, VECTORS)]

    def scores(self, weights: Tensor, key: int = 0) -> Tensor:
        """|w| or w^2: a channel's score is the sum over its weights."""
        return weights.abs() if self.pruning.score == "l1" else weights.square()

    def choose(self, pruning: Pruning, scores: Tensor, held: Tensor | None) -> Tensor:
        worth = dict(zip(self.layout.names, self.layout.views(scores), strict=True))
        kept = best_channels(
            self.groups,
            unit_scores(self.groups, worth),
            pruning.sparsity,
            protect=self._protect,
            overrides=pruning.overrides,
            held=None if held is None else self._kept(held.cpu()),
        )
        return self.mask(kept).to(scores.device)

    def mask(self, kept: Sequence[Tensor]) -> Tensor:
        """Channels kept of each group, int64 -> bool [size], on the CPU."""
        flags = [torch.zeros(group.channels, dtype=torch.bool) for group in self.groups]
        return torch.cat([flag.index_fill_(0, held, True) for flag, held in zip(flags, kept, strict=True)])

    def submodel(self, mask: Tensor) -> Submodel:
        self.state.load_into(self.model)  # what is not exchanged is cut too, and must not be the last client's
        sub = cut(self.model, self.groups, self._kept(mask.cpu()))
        return Submodel(MaskedLayout(sub.mask(), self.layout), sub.buffers, sub)

    def _kept(self, mask: Tensor) -> list[Tensor]:
        return [flags.nonzero().view(-1) for flags in mask.split(self.channels)]


def make_mask_selector(pruning: Pruning, state: ModelState, model: nn.Module, example: Tensor) -> MaskSelector:
    """The mask selector of a run. `example`: a batch of one input, on the model's device."""
    if pruning.method in SMALLER:
        return ChannelSelector(pruning, state, model, example)
    return WeightSelector(pruning, state.layout)


def choose(pruning: Pruning, scores: Tensor, layout: Layout, *, held: Tensor | None = None) -> Tensor:
    """The mask, bool [n], that `pruning` makes of scores (for `filters`: of weights), fp32 [n]."""
    protected = protected_layers(layout, pruning.protect)
    if pruning.method == "filters":
        return choose_filters(scores, layout, pruning.sparsity, protected=protected, held=held)
    return choose_mask(
        scores,
        layout,
        pruning.sparsity,
        scope=pruning.scope,
        protected=protected,
        min_density=pruning.min_density,
        overrides=pruning.overrides,
        held=held,
    )


def at_capability(pruning: Pruning, capability: float) -> Pruning:
    """`pruning` for a client that can hold the fraction `capability` of what it leaves."""
    overrides = {name: 1 - (1 - sparsity) * capability for name, sparsity in pruning.overrides.items()}
    return replace(pruning, sparsity=1 - (1 - pruning.sparsity) * capability, overrides=overrides)


def refuse_early(pruning: Pruning, layout: Layout) -> None:
    """ConfigError for what this model cannot have, before a run starts and not in the middle of a schedule."""
    if pruning.method in SMALLER:
        return
    try:
        budgets(
            layout,
            pruning.sparsity,
            scope=pruning.scope,
            protected=protected_layers(layout, pruning.protect),
            min_density=pruning.min_density,
            overrides=pruning.overrides,
        )
    except SpecError as error:
        raise ConfigError(f"--prune {pruning.text}: {error}") from None
