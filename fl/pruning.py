"""`--prune`: one global mask that every client knows (by=server), or pruning after local training (by=after)."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from compression import Codec, Layout
from compression.codec import SparseCodec
from compression.draws import derive_key
from compression.pruning.after import PrunedWeights
from compression.pruning.choose import budgets, choose_mask, protected_layers, sparsity_by_layer
from compression.pruning.filters import choose_filters
from compression.pruning.inside import Inside
from compression.pruning.mask_wire import decode_mask, encode_mask
from compression.pruning.schedule import changes_at, parse_prune_schedule, pruning_at, sparsity_at
from compression.pruning.score import accumulate, gradient, magnitude, random
from compression.pruning.spec import Pruning, parse_pruning
from compression.select import Threshold
from compression.spec import SpecError
from compression.wire import Kind

from .config import PruneOptions
from .errors import ConfigError
from .model_state import ModelState
from .ranks import Ranks


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


def refuse_early(pruning: Pruning, layout: Layout) -> None:
    """ConfigError for what this model cannot have, before a run starts and not in the middle of a schedule."""
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
        raise ConfigError(f"--prune {error}") from None


class AfterTraining:
    """`--prune ...,by=after`: each client prunes what it trained and sends the weights that are left."""

    def __init__(self, options: PruneOptions, state: ModelState) -> None:
        self.pruning = parse_pruning(options.prune)
        self.schedule = parse_prune_schedule(options.prune_schedule)
        self.state = state
        refuse_early(self.pruning, state.layout)

    def codec(self, codec: Codec, round_: int, client: int, seed: int) -> PrunedWeights:
        """`codec` for the weights of a client in a round; decoding does not depend on the client."""
        pruning = pruning_at(self.pruning, self.schedule, round_)

        def keep(weights: Tensor, layout: Layout) -> Tensor:
            if pruning.method == "random":
                scores = random(derive_key(seed, round_, client), layout.total, weights.device)
            else:
                scores = weights if pruning.method == "filters" else magnitude(weights)
            return choose(pruning, scores, layout)

        if isinstance(codec, SparseCodec):
            codec = replace(codec, selector=Threshold(0.0), kind=Kind.WEIGHTS)  # all that are not zero
        return PrunedWeights(codec, self.state.parameters, keep)


class GlobalMask:
    """The mask of all clients. `inside` is None until the first round that prunes.

    A coordinate outside it is zero in the global model, gets no gradient locally, and is sent in neither direction.
    `mask_bytes`: the payload of the newest mask. `held`: coordinates inside.
    """

    def __init__(self, options: PruneOptions, ranks: Ranks, state: ModelState, *, seed: int) -> None:
        self.pruning = parse_pruning(options.prune)
        self.schedule = parse_prune_schedule(options.prune_schedule)
        self.ranks = ranks
        self.state = state
        self.seed = seed
        refuse_early(self.pruning, state.layout)
        self.mask = torch.ones(state.layout.total, dtype=torch.bool, device=state.parameters.device)
        self.inside: Inside | None = None
        self.mask_bytes = 0
        squares = ranks.is_server and self.pruning.method == "gradient"
        self._squares = torch.zeros_like(state.parameters) if squares else None

    @property
    def held(self) -> int:
        """Number of coordinates inside the mask."""
        return self.state.layout.total if self.inside is None else self.inside.layout.total

    def begin(self, round_: int) -> bool:
        """Begin a round: where the schedule says so, choose a mask, send it to all ranks, and use it. Collective.

        Returns whether the mask is a new one. The global model is zero outside it.
        """
        if not self._changes(round_):
            return False
        payload = encode_mask(self._choose(round_)) if self.ranks.is_server else None
        payload = self.ranks.broadcast(payload)
        self.mask_bytes = payload.numel()
        self._use(decode_mask(payload, self.state.layout.total))
        self.state.parameters.mul_(self.mask)
        return True

    def snapshot(self, round_: int) -> tuple[Tensor, Inside | None, int, Tensor | None]:
        """What `restore` needs to take a round back: the weights, if it begins with a new mask, and the old one."""
        weights = self.state.parameters.clone() if self._changes(round_) else None
        return self.mask, self.inside, self.mask_bytes, weights

    def restore(self, before: tuple[Tensor, Inside | None, int, Tensor | None]) -> None:
        """The round failed: everything as it was at `snapshot`."""
        self.mask, self.inside, self.mask_bytes, weights = before
        if weights is not None:
            self.state.parameters.copy_(weights)

    def _changes(self, round_: int) -> bool:
        """Whether a mask is chosen now; one that holds everything need not be."""
        return changes_at(self.schedule, round_) and sparsity_at(self.schedule, 1.0, round_) > 0

    def _choose(self, round_: int) -> Tensor:
        pruning, layout = pruning_at(self.pruning, self.schedule, round_), self.state.layout
        return choose(pruning, self._scores(), layout, held=self.mask)

    def _scores(self) -> Tensor:
        if self.pruning.method == "random":
            return random(derive_key(self.seed), self.state.layout.total, self.mask.device)
        if self._squares is not None:
            return gradient(self._squares)
        if self.pruning.method == "filters":
            return self.state.parameters
        return magnitude(self.state.parameters)

    def observe(self, mean_update: Tensor) -> None:
        """Rank 0 saw a round's mean update, fp32 [n]: the only gradient that a server knows."""
        if self._squares is not None:
            accumulate(self._squares, mean_update, squared=True)

    def _use(self, mask: Tensor) -> None:
        self.mask, self.inside = mask, Inside(mask, self.state.layout)

    def sparsities(self) -> dict[str, float]:
        """Sparsity of each tensor by name."""
        return sparsity_by_layer(self.mask, self.state.layout)

    def state_dict(self) -> dict[str, Tensor]:
        """The mask and what the next one will be chosen by."""
        squares = {} if self._squares is None else {"mask.squares": self._squares}
        return {"mask.held": self.mask.to(torch.uint8), "mask.bytes": torch.tensor(self.mask_bytes), **squares}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
        self.mask_bytes = int(state["mask.bytes"])
        if self.mask_bytes:
            self._use(state["mask.held"].to(self.mask.device).bool())
        if self._squares is not None:
            self._squares.copy_(state["mask.squares"])


class MaskedGradients:
    """Keeps a model's pruned weights at zero while it trains: their gradients are zero, and so is their momentum."""

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        named = dict(model.named_parameters())
        self._parameters = [named[name] for name in names]
        self._masks: list[Tensor] | None = None
        for at, parameter in enumerate(self._parameters):
            parameter.register_hook(lambda grad, at=at: self._masked(grad, at))

    def _masked(self, grad: Tensor, at: int) -> Tensor:
        return grad if self._masks is None else grad * self._masks[at]

    def use(self, masks: list[Tensor]) -> None:
        """Masks in the shapes of the parameters, bool, from now on."""
        self._masks = [
            torch.empty_like(parameter, dtype=torch.bool).copy_(mask)
            for parameter, mask in zip(self._parameters, masks, strict=True)
        ]
