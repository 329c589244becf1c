"""Puts a run together: data, model, engine, exchange, all from the options."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compression import make_codec

from .algorithms.course import Course
from .algorithms.make import make_algorithm
from .buffered_exchange import BufferedExchange
from .checks import with_clients
from .client import ClientTrainer
from .config import Config
from .data import Split, load_dataset
from .data.augment import Augment
from .data.normalise import Normaliser
from .data.partition import partition
from .data.split import split_validation
from .engine import choose_engine, make_engine
from .engine.base import LocalEngine
from .engine.precision import autocast_dtype
from .evaluate import evaluate
from .exchange import Exchange
from .hook_exchange import HookExchange
from .model_state import ModelState
from .models import build_model
from .modes import is_buffered
from .quantise import fake_quantise
from .ranks import Ranks
from .sampling import Sampler, make_sampler
from .server import Server, join_payloads, part_payloads
from .server_exchange import ServerExchange
from .server_optim import make_server_optimizer
from .uplink import Uplink
from .uplink_shares import uplink_shares


@dataclass
class Federation:
    """The parts of a run on this rank. `parts`: for each client, positions of its samples in `train`, int64."""

    config: Config
    ranks: Ranks
    train: Split
    validation: Split
    test: Split
    parts: list[Tensor]
    classes: int
    augment: Augment
    normalise: Normaliser
    engine: LocalEngine
    state: ModelState
    course: Course
    sampler: Sampler

    def cohort(self, round_: int, now: float = 0.0) -> list[int]:
        """The clients of a round that begins at virtual second `now`, ascending; a function of these, the seed, and what
        the sampler was told."""
        return self.sampler.draw(range(self.config.clients or 0), self.config.clients_per_round or 0, round_, now=now)

    def make_trainer(self) -> ClientTrainer:
        """What trains this rank's clients."""
        return ClientTrainer(
            self.config,
            self.train,
            self.parts,
            augment=self.augment,
            normalise=self.normalise,
            seed=self.config.seed,
        )

    def make_exchange(self) -> Exchange:
        """How updates travel, with the server on rank 0."""
        config, feedback = self.config, self.config.error_feedback
        server = None
        if self.ranks.is_server:
            server = Server(
                self.state,
                lambda params: make_server_optimizer(config, params),
                make_codec(config.downlink),
                error_feedback=feedback != "none",
            )
        if config.exchange == "hook":
            return HookExchange(
                self.ranks,
                self.state,
                server,
                self.engine.model,
                uplink=Uplink(config.uplink, config.uplink_warmup),
                downlink=config.downlink,
                error_feedback=feedback,
                seed=config.seed,
                hook=config.hook,
            )
        kind = BufferedExchange if is_buffered(config) else ServerExchange
        exchange = kind(
            self.ranks,
            self.state,
            server,
            Uplink(config.uplink, config.uplink_warmup),
            downlink=config.downlink,
            error_feedback=feedback,
            seed=config.seed,
            course=self.course,
            part_mean=config.part_mean,
        )
        exchange.count_layers = config.prune != "none"
        exchange.shares = uplink_shares(config)
        return exchange

    def share_model(self) -> None:
        """Rank 0's global model to every rank: the first download."""
        exact = make_codec("none")
        payload = None
        if self.ranks.is_server:
            payload = join_payloads(exact.encode(self.state.parameters)[0], self.state.buffers)
        change, buffers = part_payloads(self.ranks.broadcast(payload), self.state, exact)
        if not self.ranks.is_server:
            self.state.parameters.copy_(change.dense())
            if buffers is not None:
                self.state.buffers.copy_(buffers.values)

    def evaluate(self, split: Split) -> tuple[float | None, float | None]:
        """Loss and accuracy of the global model on `split`; None where it is empty. Collective."""
        if not len(split):
            return None, None
        self.state.load_into(self.engine.model)
        dtype = autocast_dtype(self.engine.precision)
        return evaluate(
            self.engine.model,
            split,
            self.ranks,
            normalise=self.normalise,
            autocast=None if dtype is torch.float32 else dtype,
            memory_format=self.engine.memory_format,
        )

    def label_counts(self) -> list[list[int]]:
        """How many training samples of each class each client holds."""
        labels = self.train.y.cpu()
        return [torch.bincount(labels[part], minlength=self.classes).tolist() for part in self.parts]


def assemble(config: Config, ranks: Ranks) -> Federation:
    """Load the data, share them out, build the model and the engine; `config` is a resolved one.

    Raises DataError for missing data and ConfigError for data and options that do not fit together.
    """
    data = load_dataset(config, seed=config.seed)
    groups = None if data.groups is None else data.groups.numpy()
    if groups is not None:
        config = with_clients(config, int(groups.max()) + 1)
    train_at, validation_at = split_validation(len(data.train), config.val_fraction, config.seed, groups)
    train = data.train.take(torch.from_numpy(train_at)).to(ranks.device)
    validation = data.train.take(torch.from_numpy(validation_at)).to(ranks.device)
    parts = _share_out(train.y.cpu().numpy(), config, None if groups is None else groups[train_at])
    model = build_model(
        config, classes=data.classes, in_channels=data.channels, image_size=data.image_size, seed=config.seed
    )
    if config.qat:
        fake_quantise(model, config.qat)
    engine = make_engine(config, model, ranks)
    engine_name = choose_engine(config, ranks.launcher)
    augment = data.augment if config.augment == "auto" else config.augment
    Augment(augment).check_size(*train.x.shape[2:])
    state = ModelState(engine.model, ranks.device)
    algorithm = make_algorithm(
        config.algorithm, state.layout, ranks.device, clients=config.clients or 1, momentum=config.momentum
    )
    return Federation(
        config=dataclasses.replace(config, precision=engine.precision, engine=engine_name, augment=augment),
        ranks=ranks,
        train=train,
        validation=validation,
        test=data.test.to(ranks.device),
        parts=parts,
        classes=data.classes,
        augment=Augment(augment),
        normalise=Normaliser(train.x),
        engine=engine,
        state=state,
        course=Course(algorithm, config),
        sampler=make_sampler(config, [len(part) for part in parts]),
    )


def _share_out(labels: np.ndarray, config: Config, groups: np.ndarray | None) -> list[Tensor]:
    assert config.clients is not None, "a resolved configuration has a number of clients"
    parts = partition(labels, config.clients, config.partition, config.seed, groups)
    return [torch.from_numpy(part) for part in parts]
