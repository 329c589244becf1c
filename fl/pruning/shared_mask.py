"""`--prune ...,by=server`: one mask of all clients, chosen by rank 0."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from compression.draws import derive_key
from compression.masks.payload import decode_mask, encode_mask
from compression.wire import dense_bytes
from fl.common.ranks import Ranks
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Part
from fl.training.local_model import LocalModel

from .plan import Masks
from .schedule import changes_at, parse_prune_schedule, pruning_at, sparsity_at
from .score import accumulate, gradient, snip
from .select import Chooser
from .spec import Pruning

Before = tuple[Tensor | None, Part, int, int, Tensor | None]
MakeLocal = Callable[[Part], LocalModel]
GradientOf = Callable[[int, int, Part], Tensor]


class SharedMask(Masks):
    """The mask of all clients: everything until the first round that prunes.

    A coordinate outside it is zero in the global model, gets no gradient locally, and is sent in neither direction.
    `rewind`: with every new mask the weights that it holds go back to those of the run's beginning, the re-initialisation
    of Frankle and Carbin 2019 ("The Lottery Ticket Hypothesis"); they are sent with the mask, in fp32. `last_round`: the
    mask of the round before stays from this one on. `gradient_of`: (client, round, part) -> the gradient of its loss at
    the global weights, fp32 [n]; for `snip`, where the first client of the cohort chooses the mask.
    """

    def __init__(
        self,
        pruning: Pruning,
        schedule: str,
        chooser: Chooser,
        ranks: Ranks,
        state: ModelState,
        make_local: MakeLocal,
        *,
        seed: int,
        gradient_of: GradientOf,
        rewind: bool = False,
        last_round: int | None = None,
    ) -> None:
        super().__init__(state)
        self.pruning = pruning
        self.schedule = parse_prune_schedule(schedule)
        self.chooser = chooser
        self.ranks = ranks
        self.seed = seed
        self.last_round = last_round
        self.bits: Tensor | None = None  # the mask as it travels
        self._part = WHOLE
        self._make_local = make_local
        self._local = make_local(WHOLE)
        self._mask_bytes = 0  # of the newest mask
        self._changed = False
        self._told_by: tuple[int, int] | None = None
        self._rewound_at = -1
        self._uploads: dict[int, int] = {}  # client -> the last round that it sent an update in
        self._round, self._cohort = 0, list[int]()
        self._gradient_of = gradient_of
        self._first = state.parameters.clone() if rewind else None
        watches = ranks.is_server and "gradient" in (pruning.method, pruning.score)
        self._squares = torch.zeros_like(state.parameters) if watches else None

    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        """As in `Masks.begin`: where the schedule says so, rank 0 chooses a mask and sends it to all ranks."""
        self._round, self._cohort = round_, list(cohort)
        self._changed, self._told_by = self._changes(round_), None
        if not self._changed:
            return
        pruning = pruning_at(self.pruning, self.schedule, round_)
        client = cohort[0]  # looks at its data, where the server cannot
        source = self.ranks.owner(client) if self.pruning.method == "snip" else 0
        payload = self.ranks.share(
            lambda: encode_mask(self.chooser.choose(pruning, self._scores(client, round_), self.bits)), source
        )
        self.install(payload)
        if self.pruning.method == "snip":
            self._told_by = client, payload.numel()

    def install(self, payload: Tensor) -> None:
        """Use the mask of this payload from now on."""
        self._use(decode_mask(payload, self.chooser.size))
        self._mask_bytes = payload.numel()
        assert self._part.inside is not None
        if self._first is not None:
            self.state.parameters.copy_(self._first)
            self._rewound_at = self._round
        self.state.parameters.mul_(self._part.inside.mask)

    def part(self, client: int) -> Part:
        """As in `Masks.part`."""
        return self._part

    @property
    def common(self) -> Part:
        """As in `Masks.common`."""
        return self._part

    @property
    def rewound(self) -> bool:
        """Whether this round began with the weights of the run's beginning."""
        return self._changed and self._first is not None

    def local(self, client: int, round_: int) -> LocalModel:
        """As in `Masks.local`."""
        return self._local

    def snapshot(self, round_: int) -> Before:
        """As in `Masks.snapshot`."""
        weights = self.state.parameters.clone() if self._changes(round_) else None
        return self.bits, self._part, self._mask_bytes, self._rewound_at, weights

    def restore(self, before: Before) -> None:
        """As in `Masks.restore`."""
        self.bits, self._part, self._mask_bytes, self._rewound_at, weights = before
        if weights is not None:
            self._local = self._make_local(self._part)
            self.state.parameters.copy_(weights)

    def _changes(self, round_: int) -> bool:
        """Whether a mask is chosen now; one that holds everything need not be."""
        if self.last_round is not None and round_ >= self.last_round:
            return False
        return changes_at(self.schedule, round_) and sparsity_at(self.schedule, 1.0, round_) > 0

    def _scores(self, client: int, round_: int) -> Tensor:
        if self.pruning.method == "snip":
            return snip(self.state.parameters, self._gradient_of(client, round_, self._part))
        if self._squares is not None:
            return gradient(self._squares)
        return self.chooser.scores(self.state.parameters, derive_key(self.seed))

    def close(self, mean_update: Tensor | None) -> None:
        """As in `Masks.close`: the mean update is the only gradient that a server knows."""
        self._uploads.update(dict.fromkeys(self._cohort, self._round))
        if self._squares is not None and mean_update is not None:
            accumulate(self._squares, mean_update, squared=True)

    def _use(self, bits: Tensor) -> None:
        self.bits, self._part = bits, self.chooser.part(bits)
        self._local = self._make_local(self._part)

    @property
    def mask_bytes(self) -> int:
        """As in `Masks.mask_bytes`."""
        return self._mask_bytes if self._changed else 0

    @property
    def told_by(self) -> tuple[int, int] | None:
        """As in `Masks.told_by`."""
        return self._told_by

    @property
    def rewound_bytes(self) -> int:
        """As in `Masks.rewound_bytes`: the weights of the beginning inside the mask, in fp32."""
        return dense_bytes(self.held(0)) if self.rewound else 0

    def held(self, client: int) -> int:
        """As in `Masks.held`."""
        return self._part.held(self.state.layout.total)

    def remembered(self, client: int) -> Tensor | None:
        """As in `Masks.remembered`: what the mask holds, unless the weights have been rewound since."""
        if self._part.inside is None:
            return None
        mask = self._part.inside.mask
        return torch.zeros_like(mask) if self._uploads.get(client, -1) < self._rewound_at else mask

    def state_dict(self) -> dict[str, Tensor]:
        """The mask and what the next one will be chosen by."""
        uploads = torch.tensor(sorted(self._uploads.items()), dtype=torch.int64).view(-1, 2)
        state = {
            "mask.bytes": torch.tensor(self._mask_bytes),
            "mask.rewound": torch.tensor(self._rewound_at),
            "mask.uploads": uploads,
        }
        if self.bits is not None:
            state["mask.held"] = self.bits.to(torch.uint8)
        return state if self._squares is None else {**state, "mask.squares": self._squares}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
        self._mask_bytes = int(state["mask.bytes"])
        self._rewound_at = int(state["mask.rewound"])
        self._uploads = dict(state["mask.uploads"].tolist())
        if "mask.held" in state:
            self._use(state["mask.held"].to(self.state.parameters.device).bool())
        if self._squares is not None:
            self._squares.copy_(state["mask.squares"])
