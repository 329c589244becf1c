"""The aggregate of `--dp`: what one client adds to it is bounded, and hidden by noise."""

from compression.wire import Sparse
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel

from .aggregate import Aggregate, Mean
from .privacy import Privacy
from .rules.clip import l2_norm


class PrivateMean(Mean):
    """The sum of clipped updates and noise, over the expected number of clients (see `fl.server.privacy`).

    It is the decoded update that is clipped: whatever a client's codec and error feedback make of its update, its share of
    the sum has at most the norm of the round. Clients count alike. There must be no buffers.
    """

    def __init__(self, state: ModelState, privacy: Privacy) -> None:
        super().__init__(state)
        self._privacy = privacy
        self._unclipped = 0.0

    def reset(self) -> None:
        super().reset()
        self._unclipped = 0.0

    def add(
        self,
        update: Sparse,
        buffers: Sparse | None,
        weight: int,
        submodel: Submodel = WHOLE,
        *,
        scale: float = 1.0,
        buffer_scale: float = 1.0,
    ) -> None:
        norm, most = l2_norm(update.values), self._privacy.norm
        self._unclipped += (norm <= most) - 0.5
        super().add(update, None, 1, submodel, scale=min(1.0, most / norm) if norm else 1.0)

    def result(self) -> Aggregate:
        self._privacy.observe(self._unclipped)
        return Aggregate(self._privacy.add_noise(self._update).div_(self._privacy.expected), self._buffers)
