"""`--prune ...,by=after`: each client prunes what it trained and sends the weights that are left."""

from dataclasses import replace

from torch import Tensor

from compression import Codec, Layout
from compression.codec import SparseCodec
from compression.draws import derive_key
from compression.masks.weights import PrunedWeights
from compression.select import Threshold
from compression.wire import Kind
from fl.models.state import ModelState

from .schedule import parse_prune_schedule, pruning_at
from .score import magnitude, random
from .select import choose, refuse_early
from .spec import Pruning


class AfterTraining:
    """Makes the codec of pruned weights; nothing else of a round changes."""

    def __init__(self, pruning: Pruning, schedule: str, state: ModelState) -> None:
        self.pruning = pruning
        self.schedule = parse_prune_schedule(schedule)
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
