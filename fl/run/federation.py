"""The parts of a run on one rank, and what is made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compression import make_codec
from fl.clock.uplink_fractions import uplink_shares
from fl.comm.codecs import Uplink
from fl.common.config import Config
from fl.common.ranks import Ranks
from fl.data import Split
from fl.data.augment import Augment
from fl.data.normalise import Normaliser
from fl.models.state import ModelState
from fl.output.predictions import Judgement
from fl.rounds.buffered_exchange import BufferedExchange
from fl.rounds.exchange import Exchange
from fl.rounds.hook import HookExchange
from fl.rounds.modes import is_buffered
from fl.rounds.sampling import Sampler
from fl.rounds.server_exchange import ServerExchange
from fl.server.optimizers import make_server_optimizer
from fl.server.server import Server, join_payloads, part_payloads
from fl.training.client_eval import ClientScores, evaluate_clients
from fl.training.cost import Costs
from fl.training.engine.base import LocalEngine
from fl.training.engine.precision import autocast_dtype
from fl.training.evaluate import Evaluation, Forward, evaluate
from fl.training.local_plan import Course
from fl.training.tasks import Task
from fl.training.trainer import ClientTrainer


@dataclass
class Federation:
    """The parts of a run on this rank. `parts`: for each client, positions of its samples in `train`, int64; `held`: of
    those that it does not train on, for `--client-eval`. `classes`: 0 where targets are numbers. `notes`: on the data,
    for the log; `left_out`: on what of them is not used, for the terminal too."""

    config: Config
    ranks: Ranks
    train: Split
    validation: Split
    test: Split
    parts: list[Tensor]
    held: list[Tensor]
    task: Task
    classes: int
    augment: Augment
    normalise: Normaliser
    engine: LocalEngine
    state: ModelState
    course: Course
    sampler: Sampler
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

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

    def evaluate(self, split: Split) -> Evaluation | None:
        """The global model on `split`; None where it is empty. Collective."""
        return evaluate(self._forward(), split, self.ranks, self.task) if len(split) else None

    def judge(self) -> Judgement:
        """The global model on validation and test split, and on what clients hold out, if they do. Collective."""
        return Judgement(self.evaluate(self.validation), self.evaluate(self.test), self.evaluate_clients())

    def evaluate_clients(self) -> ClientScores | None:
        """The global model on what each client holds out; None without `--client-eval`. Collective."""
        if not self.config.client_eval:
            return None
        return evaluate_clients(self._forward(), self.train, self.held, self.ranks, self.task)

    def _forward(self) -> Forward:
        self.state.load_into(self.engine.model)
        return self.forward(self.engine.model)

    def forward(self, model: nn.Module) -> Forward:
        """How `model` is evaluated in this run."""
        dtype = autocast_dtype(self.engine.precision)
        return Forward(
            model,
            normalise=self.normalise,
            autocast=None if dtype is torch.float32 else dtype,
            memory_format=self.engine.memory_format,
            seed=self.config.seed,
        )

    def make_costs(self) -> Costs:
        """What training the models of this run costs."""
        return Costs(
            self.config,
            self.train.x.shape[1:],
            autocast_dtype(self.engine.precision),
            loss=self.task.loss,
            targets=self.train.y.dtype,
        )

    def label_counts(self) -> list[list[int]]:
        """How many training samples of each class each client holds; of all, where targets are numbers."""
        if not self.classes:
            return [[len(part)] for part in self.parts]
        labels = self.train.y.cpu()
        return [torch.bincount(labels[part], minlength=self.classes).tolist() for part in self.parts]
