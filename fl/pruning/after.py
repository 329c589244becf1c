"""`--prune ...,by=after`: each client prunes what it trained and sends the weights that are left."""

from dataclasses import dataclass, replace

from torch import Tensor

from compression import Codec, Layout
from compression.codec import SparseCodec
from compression.draws import derive_key
from compression.masks.weights import PrunedWeights
from compression.select import Threshold
from compression.wire import Kind
from fl.models.submodel import Submodel

from .plan import PlanInputs
from .schedule import parse_prune_schedule, pruning_at
from .score import weight_scores
from .select import choose, refuse_early
from .shared_mask import SharedMask
from .spec import Pruning


@dataclass(frozen=True, eq=False)
class PrunedSubmodel(Submodel):
    """The whole model, of which a client sends the weights that `pruning` leaves. `key` seeds random scores."""

    pruning: Pruning | None = None
    reference: Tensor | None = None
    key: int = 0

    def codec(self, codec: Codec) -> Codec:
        """`codec` for the pruned weights; decoding does not depend on the client."""
        pruning, reference = self.pruning, self.reference
        assert pruning is not None
        assert reference is not None

        def keep(weights: Tensor, layout: Layout) -> Tensor:
            return choose(pruning, weight_scores(pruning.method, weights, self.key), layout)

        if isinstance(codec, SparseCodec):
            codec = replace(codec, selector=Threshold(0.0), kind=Kind.WEIGHTS)  # all that are not zero
        return PrunedWeights(codec, reference, keep)


class PruneAfterTraining(SharedMask):
    """Clients prune after training, up to round `rounds`; then they fine-tune under one mask of the averaged weights."""

    def __init__(self, inputs: PlanInputs, pruning: Pruning, schedule: str, rounds: int) -> None:
        """`inputs` are those of the mask; `pruning` and `schedule` those of the clients."""
        super().__init__(inputs)
        self._rounds = rounds
        self._after = pruning
        self._after_schedule = parse_prune_schedule(schedule)
        refuse_early(pruning, self.state.layout)

    def submodel(self, client: int) -> Submodel:
        if self._round >= self._rounds:
            return super().submodel(client)
        pruning = pruning_at(self._after, self._after_schedule, self._round)
        key = derive_key(self.inputs.seed, self._round, client)
        return PrunedSubmodel(pruning=pruning, reference=self.state.parameters, key=key)
