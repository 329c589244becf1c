"""The parts of a run on one rank, and what is made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fl.common.config import Config
from fl.common.ranks import Ranks
from fl.data import Schema, Split
from fl.data.augment import Augment
from fl.data.normalise import Normaliser
from fl.models.state import ModelState

from .cost import Costs
from .engine.base import LocalEngine
from .engine.precision import autocast_dtype
from .evaluate import ClientScores, Evaluation, Evaluations, Forward, evaluate, evaluate_clients
from .local_plan import LocalPlan
from .tasks import Task
from .together import reason_for_one
from .trainer import ClientTrainer


@dataclass
class Worker:
    """The parts of a run on this rank. `rows`: positions in `train` of the samples that are not held out to validate on;
    `parts`: of each client's own, `held`: of those that it does not train on, for `--client-eval`; all int64. `sizes`: how
    many each client trains on, also where its samples are at its site. `schema`: what samples look like there, or None.

    `classes`: of samples; 0 where targets are numbers or text. `notes`: on the data, for the log;
    `left_out`: on data that are not used, for the terminal too.
    """

    config: Config
    ranks: Ranks
    train: Split
    validation: Split
    test: Split
    rows: Tensor
    parts: list[Tensor]
    held: list[Tensor]
    sizes: list[int]
    task: Task
    classes: int
    augment: Augment
    normalise: Normaliser
    engine: LocalEngine
    state: ModelState
    local_plan: LocalPlan
    schema: Schema | None = None
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def make_trainer(self) -> ClientTrainer:
        """What trains this rank's clients."""
        return ClientTrainer(
            self.config,
            self.train,
            self.parts,
            augment=self.augment,
            normalise=self.normalise,
            seed=self.config.seed,
            peers=self.ranks.peers,
            at_once=1 if reason_for_one(self.config, self.engine) else self.config.clients_at_once,
        )

    def evaluate(self, split: Split) -> Evaluation | None:
        """The global model on `split`; None where it is empty. Collective."""
        return evaluate(self._forward(), split, self.ranks, self.task) if len(split) else None

    def judge(self) -> Evaluations:
        """The global model on validation and test split, and on what clients hold out, if they do. Collective."""
        return Evaluations(self.evaluate(self.validation), self.evaluate(self.test), self.evaluate_clients())

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
            tokens=self.train.x.dtype == torch.int64,
        )

    def label_counts(self) -> list[list[int]]:
        """How many training samples of each class each client holds; of all, where there are no classes, or not here."""
        if not self.classes or not self.parts:
            return [[size] for size in self.sizes]
        labels = self.train.y.cpu()
        return [torch.bincount(labels[part], minlength=self.classes).tolist() for part in self.parts]
