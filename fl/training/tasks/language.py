"""The next token of text."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import BATCH, Task
from .score import BITS_PER_BYTE, Score

_LOGITS = 1 << 25


class Language(Task):
    """Outputs [N, T, tokens] are logits, one row for each of the targets `y`, int64 [N, T]; the loss is their mean
    cross-entropy in nats.

    `perplexity`: exp of the loss. `bits_per_byte`: the loss in bits over the mean length of a token in bytes of UTF-8,
    which does not depend on what the tokens are.
    """

    name: ClassVar[str] = "language"
    score: ClassVar[Score] = BITS_PER_BYTE
    metrics: ClassVar[tuple[str, ...]] = ("perplexity", "bits_per_byte")

    def __init__(self, tokens: int, bytes_per_token: float) -> None:
        """`tokens`: how many different ones there are."""
        self.tokens = tokens
        self.bytes_per_token = bytes_per_token

    def at_once(self, y: Tensor) -> int:
        """So few that their logits fill a tenth of a GB: a text may have tens of thousands of different tokens."""
        return max(1, min(BATCH, _LOGITS // (y.shape[1] * self.tokens)))

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten())

    def loss_sum(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self._each(outputs, y).sum()

    def predict(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy of each sample."""
        return self._each(outputs, y).double()

    def _each(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.transpose(1, 2), y, reduction="none").mean(1)

    def rate(self, predictions: Tensor, y: Tensor) -> float | None:
        loss = float(predictions.mean()) if len(predictions) else math.nan
        return loss / math.log(2) / self.bytes_per_token if math.isfinite(loss) else None  # not finite: it has diverged

    def measure(self, predictions: Tensor, y: Tensor) -> dict[str, float | None]:
        bits = self.rate(predictions, y)
        perplexity = None if bits is None else float(torch.exp(predictions.mean()))
        return {"perplexity": perplexity, "bits_per_byte": bits}

    def fits(self, shape: torch.Size) -> bool:
        return len(shape) == 3 and shape[2] == self.tokens

    @property
    def wanted(self) -> str:
        return f"one output for each of the {self.tokens} tokens at each place, [N, T, {self.tokens}],"
