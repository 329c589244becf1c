"""A client: global weights and its own data in, an update out."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from fl.common.config import TrainOptions
from fl.common.seeds import derive_seed, seeded
from fl.data.augment import Augment
from fl.data.batches import count_steps, iterate_batches
from fl.data.dataset import Split
from fl.data.normalise import Normaliser
from fl.models.own_state import seed_generators

from .engine.base import LocalEngine
from .local_model import LocalModel
from .schedule import learning_rate


@dataclass
class Update:
    """What a client made of the global model in one round.

    `values`: fp32 [n], global minus local parameters (the pseudo-gradient), zero where the client holds nothing.
    `buffers`: fp32 [m], its own buffers, or those [b] of its part. `moved`: whether it has taken a step (`LocalEngine`).
    """

    client: int
    values: Tensor
    buffers: Tensor
    samples: int
    train_loss: float
    train_s: float
    moved: bool = True


class ClientTrainer:
    """Trains the clients of this rank one after another, in place.

    What a client computes depends on the global model, its data and (seed, round, client) alone: the generators that a model
    may draw from, global ones and its own, and augmentation are seeded by these, and the engine starts afresh.
    """

    def __init__(
        self,
        options: TrainOptions,
        data: Split,
        parts: list[Tensor],
        *,
        augment: Augment,
        normalise: Normaliser,
        seed: int,
    ) -> None:
        self.options = options
        self.data = data
        self.parts = parts
        self.augment = augment
        self.normalise = normalise
        self.seed = seed

    def train(self, client: int, round_: int, model: LocalModel, *, version: int | None = None) -> Update:
        """Train `client` on its `model`, from the global model, which is only read.

        `round_` seeds the order of its data; `version`, where it is not the same, says how far the learning rate is.
        """
        started = time.perf_counter()
        version = round_ if version is None else version
        engine = model.engine
        model.load()
        seed_generators(model.engine.model, self.seed, "own generators", round_, client)
        losses = []
        with self.seeded(client, round_):
            engine.start(learning_rate(self.options, version), version * self._steps(client))
            for x, y in self.batches(client, round_, engine):
                losses.append(engine.step(x, y))
            engine.finish()
        values, buffers = model.read()
        # Losses are read only now: reading each one would make the device wait in every step.
        loss = torch.stack(losses).double().mean().item()
        seconds = time.perf_counter() - started
        return Update(client, values, buffers, len(self.parts[client]), loss, seconds, engine.moved)

    def _steps(self, client: int) -> int:
        options = self.options
        return count_steps(len(self.parts[client]), options.batch_size, options.local_epochs, options.local_steps)

    def seeded(self, client: int, round_: int) -> AbstractContextManager[None]:
        """The global generators for `client` in `round_`; afterwards they are as they were."""
        return seeded(self.seed, "dropout", round_, client)

    def first_batches(self, client: int, round_: int, engine: LocalEngine) -> Iterator[tuple[Tensor, Tensor]]:
        """At most ten of `batches`, for what looks at data without training."""
        return islice(self.batches(client, round_, engine), 10)

    def batches(self, client: int, round_: int, engine: LocalEngine) -> Iterator[tuple[Tensor, Tensor]]:
        """What `client` trains on in `round_`, in order, as `engine` takes it: inputs and labels."""
        return iterate_batches(
            self.data,
            self.parts[client],
            batch_size=self.options.batch_size,
            epochs=self.options.local_epochs,
            steps=self.options.local_steps,
            seed=derive_seed(self.seed, "batches", round_, client),
            augment=self.augment,
            normalise=self.normalise,
            device=self.data.x.device,
            memory_format=engine.memory_format,
        )
