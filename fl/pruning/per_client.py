"""`--prune ...,by=client`: every client chooses a mask of its own and tells the server once."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from compression.draws import derive_key
from compression.masks.payload import decode_mask, encode_mask
from fl.clock.adaptive import Fractions
from fl.comm.ledger import SubmodelSize
from fl.models.submodel import WHOLE, Submodel, no_buffers
from fl.training.local_model import LocalModel

from .plan import PlanInputs, PrunedPlan
from .schedule import changes_at, pruning_at
from .score import snip
from .select import ChannelSelector, at_capability


class ClientMasks(PrunedPlan):
    """A client that takes part after a step of the schedule chooses a mask, within the one it had, from the weights that
    it downloaded and, for `snip`, from its own data. The mask's payload goes with its update. From its next round on it
    downloads no more than it holds.

    `capabilities`: client c is left with the fraction capabilities[c] of what the schedule leaves.
    """

    differs = True
    changing = ("_payloads", "_steps", "_counts")

    def __init__(self, inputs: PlanInputs, capabilities: Fractions) -> None:
        super().__init__(inputs, capabilities)
        # The masks known here: all on rank 0, elsewhere those of the clients hosted there.
        self._payloads: dict[int, Tensor] = {}
        self._steps: dict[int, int] = {}  # the schedule's step that each was chosen at
        self._counts: dict[int, int] = {}  # coordinates that each holds
        self._before_round: dict[int, int] = {}  # the same of this cohort, when the round began
        self._told: dict[int, Tensor] = {}  # masks of this round that are still to be sent
        self._step = -1  # the last one up to this round
        self._newest: tuple[Tensor, Submodel] | None = None

    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        self.note()
        round_ = min(round_, self.inputs.last_round - 1)
        self._step = next((r for r in range(round_, -1, -1) if changes_at(self.schedule, r)), -1)
        self._told = {}
        self._before_round = {client: self._counts.get(client, self.state.layout.total) for client in cohort}

    def local(self, client: int, round_: int) -> LocalModel:
        """A client whose mask is older than the schedule's last step chooses another."""
        pruning = pruning_at(self.pruning, self.schedule, max(0, self._step))
        pruning = at_capability(pruning, self.fractions[client])
        drops = pruning.sparsity > 0 or any(pruning.overrides.values())
        if drops and self._steps.get(client, -1) < self._step:
            held = self._mask(client) if client in self._payloads else None
            self._told[client] = encode_mask(self.selector.choose(pruning, self._scores(client, round_), held))
            self._learn(client, self._told[client])
        return self.inputs.make_local(self.submodel(client))

    def _scores(self, client: int, round_: int) -> Tensor:
        """Scores from the weights that the client has: zero outside its mask."""
        submodel = self.submodel(client)
        weights = submodel.mask_(self.state.parameters.clone())
        if self.pruning.method == "snip":
            return snip(weights, self.inputs.gradient_of(client, round_, submodel))
        if self.pruning.score == "gradient":
            return self.inputs.gradient_of(client, round_, submodel).square()
        return self.selector.scores(weights, derive_key(self.inputs.seed, client))

    def _mask(self, client: int) -> Tensor:
        return decode_mask(self._payloads[client], self.selector.size)

    def _learn(self, client: int, payload: Tensor) -> None:
        submodel = self._of_mask(decode_mask(payload, self.selector.size))
        self._payloads[client], self._steps[client] = payload, self._step
        self._counts[client] = submodel.held(self.state.layout.total)
        self._newest = payload, submodel

    def _of_mask(self, mask: Tensor) -> Submodel:
        submodel = self.selector.submodel(mask)
        return replace(submodel, buffers=no_buffers(mask.device)) if self.static_batchnorm else submodel

    @property
    def static_batchnorm(self) -> bool:
        """Whether clients send no running statistics, because those of different channels are not of the same inputs."""
        return isinstance(self.selector, ChannelSelector)

    @property
    def published(self) -> Submodel:
        return Submodel(buffers=no_buffers(self.state.buffers.device)) if self.static_batchnorm else WHOLE

    def submodel(self, client: int) -> Submodel:
        """Everything, before the client has chosen."""
        payload = self._payloads.get(client)
        if payload is None:
            return self.published
        if self._newest is None or self._newest[0] is not payload:
            self._newest = payload, self._of_mask(self._mask(client))
        return self._newest[1]

    def sections(self, client: int) -> dict[str, Tensor]:
        """A mask that the server does not know yet."""
        return {"mask": self._told.pop(client)} if client in self._told else {}

    def learn_submodel(self, client: int, sections: Mapping[str, Tensor]) -> None:
        if "mask" in sections:
            self._learn(client, sections["mask"].clone())

    def forget(self, client: int) -> None:
        self._told.pop(client, None)
        for name in self.changing:
            before, now = self._before[name], getattr(self, name)
            now.pop(client, None)
            if client in before:
                now[client] = before[client]

    def held(self, client: int) -> int:
        return self._counts.get(client, self.state.layout.total)

    def sizes(self, cohort: Sequence[int]) -> dict[int, SubmodelSize]:
        """A client downloads by the mask that it had when the round began, and knows the mask that it then chose."""
        buffers = self.published.buffer_count(self.state.buffers.numel())
        return {client: SubmodelSize(self._before_round[client], buffers, 0, 0) for client in cohort}

    def state_dict(self) -> dict[str, Any]:
        """The masks as payloads, and the steps that they were chosen at."""
        return {
            "masks": {str(client): payload for client, payload in self._payloads.items()},
            "steps": sorted(self._steps.items()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        device, steps = self.state.parameters.device, dict(state["steps"])
        for name, payload in state["masks"].items():
            self._step = steps[int(name)]
            self._learn(int(name), payload.to(device))
