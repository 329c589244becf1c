"""`--prune ...,by=server`: one mask of all clients, chosen by rank 0."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from compression.draws import derive_key
from compression.masks.payload import decode_mask, encode_mask
from compression.wire import dense_bytes
from fl.models.submodel import WHOLE, Submodel

from .plan import NewMask, PlanInputs, PrunedPlan
from .schedule import changes_at, pruning_at, sparsity_at
from .score import gradient, snip


class SharedMask(PrunedPlan):
    """The mask of all clients: everything until the first round that prunes.

    A coordinate outside it is zero in the global model, gets no gradient locally, and is sent in neither direction.
    `rewind`: with every new mask the weights that it holds go back to those of the run's beginning, the re-initialisation
    of Frankle and Carbin 2019 ("The Lottery Ticket Hypothesis"); they are sent with the mask, in fp32. For `snip` the first
    client of the cohort chooses the mask.
    """

    changing: ClassVar[tuple[str, ...]] = ("bits", "_submodel", "whole", "_mask_bytes", "_rewound_at")

    def __init__(self, inputs: PlanInputs, *, rewind: bool = False) -> None:
        super().__init__(inputs)
        self.bits: Tensor | None = None  # the mask as it travels
        self._submodel = WHOLE
        self._mask_bytes = 0  # of the newest mask
        self._changed = False
        self._told_by: int | None = None
        self._rewound_at = -1
        self._uploads: dict[int, int] = {}  # client -> the last round that it sent an update in
        self._round, self._cohort = 0, list[int]()
        self._first = self.state.parameters.clone() if rewind else None
        self._weights: Tensor | None = None  # before the mask of a round that is not committed

    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        """Where the schedule says so, rank 0 chooses a mask and sends it to all ranks."""
        self.note()
        self._round, self._cohort = round_, list(cohort)
        self._changed, self._told_by = self._changes(round_), None
        if not self._changed:
            return
        pruning, ranks = pruning_at(self.pruning, self.schedule, round_), self.inputs.ranks
        client = cohort[0]  # looks at its data, where the server cannot
        by_client = self.pruning.method == "snip"
        payload = ranks.share(
            lambda: encode_mask(self.selector.choose(pruning, self._scores(client, round_), self.bits)),
            ranks.owner(client) if by_client else 0,
        )
        self.install(payload)
        self._told_by = client if by_client else None

    def install(self, payload: Tensor) -> None:
        """Use the mask of this payload from now on."""
        self._use(decode_mask(payload, self.selector.size))
        self._mask_bytes = payload.numel()
        self._weights = self.state.parameters.clone()
        if self._first is not None:
            self.state.parameters.copy_(self._first)
            self._rewound_at = self._round
        self._submodel.mask_(self.state.parameters)

    def submodel(self, client: int) -> Submodel:
        return self._submodel

    @property
    def published(self) -> Submodel:
        return self._submodel

    @property
    def rewound(self) -> bool:
        return self._changed and self._first is not None

    @property
    def new_mask(self) -> NewMask:
        """With the weights of the beginning inside the mask, in fp32, where it rewinds."""
        rewound_bytes = dense_bytes(self.held(0)) if self.rewound else 0
        return NewMask(self._mask_bytes, rewound_bytes, self._told_by) if self._changed else NewMask()

    def _changes(self, round_: int) -> bool:
        """Whether a mask is chosen now; one that holds everything need not be."""
        if round_ >= self.inputs.last_round:
            return False
        return changes_at(self.schedule, round_) and sparsity_at(self.schedule, 1.0, round_) > 0

    def _scores(self, client: int, round_: int) -> Tensor:
        if self.pruning.method == "snip":
            return snip(self.state.parameters, self.inputs.gradient_of(client, round_, self._submodel))
        if self.squares:
            return gradient(self.squares.total)
        return self.selector.scores(self.state.parameters, derive_key(self.inputs.seed))

    def forget(self, client: int) -> None:
        self._cohort.remove(client)

    def commit(self) -> None:
        super().commit()
        self._weights = None
        self._uploads.update(dict.fromkeys(self._cohort, self._round))

    def rollback(self) -> None:
        super().rollback()
        if self._weights is not None:
            self.state.parameters.copy_(self._weights)
            self._weights = None

    def _use(self, bits: Tensor) -> None:
        self.bits, self._submodel = bits, self.selector.submodel(bits)
        self.whole = self.inputs.make_local(self._submodel)

    def residual_mask(self, client: int) -> Tensor | None:
        """What the mask holds, unless the weights have been rewound since."""
        if self._uploads.get(client, -1) < self._rewound_at:
            return torch.zeros_like(self.state.parameters, dtype=torch.bool)
        return self._submodel.mask

    def state_dict(self) -> dict[str, Any]:
        """The mask and what the next one will be chosen by."""
        state: dict[str, Any] = {
            "mask_bytes": self._mask_bytes,
            "rewound_at": self._rewound_at,
            "uploads": sorted(self._uploads.items()),
        }
        if self.bits is not None:
            state["mask"] = self.bits.to(torch.uint8)
        return {**state, "squares": self.squares.total} if self.squares else state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._mask_bytes, self._rewound_at = state["mask_bytes"], state["rewound_at"]
        self._uploads = dict(state["uploads"])
        if "mask" in state:
            self._use(state["mask"].to(self.state.parameters.device).bool())
        if self.squares:
            self.squares.total.copy_(state["squares"])
