"""A client: global weights and its own data in, an update out."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import TrainOptions
from .data.augment import Augment
from .data.batches import iterate_batches
from .data.dataset import Split
from .data.normalise import Normaliser
from .engine.base import LocalEngine
from .model_state import ModelState
from .schedule import learning_rate
from .seeds import derive_seed


@dataclass
class Update:
    """What a client made of the global model in one round.

    `values`: fp32 [n], global minus local parameters (the pseudo-gradient). `buffers`: fp32 [m], its own buffers.
    """

    client: int
    values: Tensor
    buffers: Tensor
    samples: int
    train_loss: float
    train_s: float


class ClientTrainer:
    """Trains the clients of this rank one after another, in place, on one model.

    What a client computes depends on the global model, its data and (seed, round, client) alone: dropout and augmentation
    are seeded by these, and the engine starts afresh.
    """

    def __init__(
        self,
        options: TrainOptions,
        engine: LocalEngine,
        data: Split,
        parts: list[Tensor],
        *,
        augment: Augment,
        normalise: Normaliser,
        seed: int,
    ) -> None:
        self.options = options
        self.engine = engine
        self.data = data
        self.parts = parts
        self.augment = augment
        self.normalise = normalise
        self.seed = seed

    def train(self, client: int, round_: int, state: ModelState) -> Update:
        """Train `client` from the global model `state`, which is only read."""
        started = time.perf_counter()
        options, device = self.options, self.data.x.device
        state.load_into(self.engine.model)
        devices = [device] if device.type == "cuda" else []
        losses = []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(derive_seed(self.seed, "dropout", round_, client))
            self.engine.start(learning_rate(options, round_))
            for x, y in iterate_batches(
                self.data,
                self.parts[client],
                batch_size=options.batch_size,
                epochs=options.local_epochs,
                steps=options.local_steps,
                seed=derive_seed(self.seed, "batches", round_, client),
                augment=self.augment,
                normalise=self.normalise,
                device=device,
                memory_format=self.engine.memory_format,
            ):
                losses.append(self.engine.step(x, y))
            self.engine.finish()
        values, buffers = state.subtract_local(self.engine.model)
        # Losses are read only now: reading each one would make the device wait in every step.
        loss = torch.stack(losses).double().mean().item()
        seconds = time.perf_counter() - started
        return Update(client, values, buffers, len(self.parts[client]), loss, seconds)
