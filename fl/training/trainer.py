"""A client: global weights and its own data in, an update out."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice

import torch
from torch import Tensor

from fl.common.config import TrainOptions
from fl.common.generators import seeded
from fl.common.progress import work
from fl.common.ranks import Ranks
from fl.common.seeds import derive_seed
from fl.data.augment import Augment
from fl.data.batches import count_steps, iterate_batches
from fl.data.dataset import Split
from fl.data.normalise import Normaliser
from fl.models.own_state import seed_generators
from fl.models.update import Job, Update

from .engine.base import LocalEngine
from .engine.plain import PlainEngine
from .local_model import LocalModel
from .schedule import learning_rate, step_schedule
from .together import ClientsTogether

Prepare = Callable[[int], tuple[Job, LocalModel]]
Outcome = tuple[Job, Update] | BaseException
"""A client's job and update, or what its training has raised."""


class ClientTrainer:
    """Trains the clients of this rank, one after another in place, or some at once.

    What a client computes depends on the global model, its data and (seed, round, client) alone: the generators that a model
    may draw from, global ones and its own, and augmentation are seeded by these, and the engine starts afresh, or from what
    the client keeps. Who trains at once with it changes rounding alone.
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
        peers: Ranks | None = None,
        at_once: int = 1,
    ) -> None:
        """`peers`: the ranks that train each of these clients, if there are several. `at_once`: how many may train together,
        where `reason_for_one` finds nothing against it."""
        self.options = options
        self.data = data
        self.parts = parts
        self.augment = augment
        self.normalise = normalise
        self.seed = seed
        self.at_once = at_once
        self.ready: dict[tuple[int, int], Update] = {}
        """Updates that were made beforehand, by client and number of their job: `train` returns each once, as it is."""
        self._together = contextlib.nullcontext if peers is None else peers.together
        # Each rank draws other numbers for its share of a batch.
        self._share = [] if peers is None or peers.rank == 0 else [peers.rank]

    def train_many(
        self, clients: Iterable[int], prepare: Prepare, around: AbstractContextManager[object]
    ) -> Iterator[tuple[int, Outcome]]:
        """Train these clients, from one version of the model, `around` each one or all that train at once, and only as
        their updates are asked for: each client with its job and update, or with what its training has raised, on any of
        its ranks."""
        waiting = iter(clients)
        while some := list(islice(waiting, self.at_once)):
            if len(some) == 1:
                yield some[0], self._train_one(some[0], prepare, around)
                continue
            outcomes = self._train_some(some, prepare, around)
            for client in some:
                yield client, outcomes.pop(client)

    def _train_one(self, client: int, prepare: Prepare, around: AbstractContextManager[object]) -> Outcome:
        try:
            with self._together():
                job, model = prepare(client)
                with around:
                    return job, self.train(job, model)
        except (Exception, SystemExit) as error:
            return error

    def _train_some(
        self, clients: list[int], prepare: Prepare, around: AbstractContextManager[object]
    ) -> dict[int, Outcome]:
        """Train them at once. Where one fails, all begin again one after another, so that it fails alone."""
        prepared: dict[int, tuple[Job, LocalModel]] = {}
        outcomes: dict[int, Outcome] = {}
        for client in clients:
            try:
                prepared[client] = prepare(client)
            except (Exception, SystemExit) as error:
                outcomes[client] = error
        with contextlib.suppress(Exception, SystemExit), around:
            jobs, models = zip(*prepared.values(), strict=True)
            return outcomes | self._train_together(jobs, models[0])
        return outcomes | {client: self._train_one(client, prepared.__getitem__, around) for client in prepared}

    def _train_together(self, jobs: Sequence[Job], model: LocalModel) -> dict[int, Outcome]:
        started = time.perf_counter()
        engine = model.engine
        assert isinstance(engine, PlainEngine), "reason_for_one() comes first"
        model.load({})
        clients = ClientsTogether(self.options, engine, len(jobs), learning_rate(self.options, jobs[0].version))
        batches = [self.batches(job.client, job.number, engine) for job in jobs]
        losses: list[list[Tensor]] = [[] for _ in jobs]
        with work.on(*(job.client for job in jobs)):
            while taken := {at: batch for at, left in enumerate(batches) if (batch := next(left, None)) is not None}:
                for at, loss in clients.step(taken).items():
                    losses[at].append(loss)
        updates = []
        for at, job in enumerate(jobs):
            clients.put(at)
            values, buffers = model.read()
            mean = _finite_mean(torch.stack(losses[at]).double().cpu())
            updates.append(Update(job.client, values, buffers, len(self.parts[job.client]), mean, 0.0))
        seconds, steps = time.perf_counter() - started, sum(map(len, losses))
        for update, own in zip(updates, losses, strict=True):
            update.train_s = seconds * len(own) / steps
        return {job.client: (job, update) for job, update in zip(jobs, updates, strict=True)}

    def train(self, job: Job, model: LocalModel) -> Update:
        """Train the job's client on its `model`, from the global model, which is only read.

        Where memory is too small for a batch, it begins again with batches in two halves, once.
        """
        ready = self.ready.pop((job.client, job.number), None)
        if ready is not None:
            return ready
        try:
            return self._train(job, model)
        except (RuntimeError, MemoryError) as error:
            if not (is_out_of_memory(error) and model.engine.can_halve):
                raise
        # Here the error's traceback no longer keeps the tensors of the first attempt.
        if model.engine.device.type == "cuda":
            torch.cuda.empty_cache()
        with model.engine.halves():
            update = self._train(job, model)
        update.halved = True
        return update

    def _train(self, job: Job, model: LocalModel) -> Update:
        started = time.perf_counter()
        client, number = job.client, job.number
        engine = model.engine
        model.load(job.state.get("weights", {}))
        key = number, client, *self._share
        seed_generators(engine.network, self.seed, "own generators", *key)
        losses = []
        done, rate = job.version * self._steps(client), step_schedule(self.options, self._steps(client))
        with seeded(self.seed, "dropout", *key), work.on(client):
            engine.start(learning_rate(self.options, job.version), done)
            if job.moments:
                engine.remember(job.moments)
            for step, (x, y) in enumerate(self.batches(client, number, engine), start=done):
                if rate is not None:
                    engine.set_rate(rate(step))
                losses.append(engine.step(x, y))
            moments = engine.moments() if self.options.local_state == "keep" else {}
            engine.finish()
        values, buffers = model.read()
        # Losses are read only now: reading each one would make the device wait in every step. One that overflows in fp16
        # takes no step.
        loss = _finite_mean(torch.stack(losses).double().cpu())
        seconds = time.perf_counter() - started
        keep = {"optimizer": moments, "weights": model.keep()}
        return Update(client, values, buffers, len(self.parts[client]), loss, seconds, engine.moved, kept=keep)

    def _steps(self, client: int) -> int:
        options = self.options
        return count_steps(len(self.parts[client]), options.client_batch, options.local_epochs, options.local_steps)

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
            batch_size=self.options.client_batch,
            steps=self._steps(client),
            seed=derive_seed(self.seed, "batches", round_, client),
            augment=self.augment,
            normalise=self.normalise,
            memory_format=engine.memory_format,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the host or of a GPU, was too small."""
    words = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in str(error) for each in words)


def _finite_mean(losses: Tensor) -> float:
    """The mean of those that are finite; NaN if none is."""
    return losses[losses.isfinite()].mean().item()
