"""Makes the submodel plan that the options ask for."""

from dataclasses import replace

import torch
from torch import Tensor

from fl.clock.adaptive import AdaptiveFractions, Fractions, equal_time
from fl.clock.profiles import profiles
from fl.common.errors import ConfigError
from fl.common.generators import torch_generator
from fl.models.submodel import Submodel
from fl.models.surgery.flops import layer_times
from fl.models.update import Job
from fl.training.cost import samples_trained
from fl.training.engine import make_engine
from fl.training.gradients import MaskedGradients
from fl.training.local_gradient import local_gradient
from fl.training.local_model import LocalModel, LocalSmallerModel, MaskedModel, WholeModel
from fl.training.trainer import ClientTrainer
from fl.training.worker import Worker

from .after import PruneAfterTraining
from .capacity import Recovery, capabilities, parse_capabilities
from .fragments import Fragments
from .nested import NestedSubmodels
from .per_client import ClientMasks
from .plan import NEVER, PlanInputs, SubmodelPlan
from .prunefl import PruneFLMask
from .select import at_capability, make_mask_selector, refuse_early
from .shared_mask import SharedMask
from .spec import SMALLER, Pruning, parse_pruning
from .width import class_layers


class LocalModels:
    """Makes the models that clients train: the engine's under a mask, or a smaller one with an engine of its own."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.gradients = MaskedGradients(worker.engine.network, worker.state.layout.names)

    def __call__(self, submodel: Submodel, *, squares: Tensor | None = None) -> LocalModel:
        """The model of `submodel`; for `squares` see `MaskedModel`."""
        engine, state = self._worker.engine, self._worker.state
        if submodel.sub is None:
            return MaskedModel(engine, state, self.gradients, submodel, squares)
        own = make_engine(self._worker.config, submodel.sub.model, self._worker.ranks, engine.loss)
        return LocalSmallerModel(own, state, submodel.sub, buffers=submodel.sends_buffers)


def make_plan(worker: Worker, trainer: ClientTrainer) -> SubmodelPlan:
    """The plan that `--prune` asks for; by default every client holds the whole model."""
    config, state = worker.config, worker.state
    if config.fragments > 1 or config.merge:
        if config.fragments > state.layout.total:
            raise ConfigError(
                f"--fragments {config.fragments} is more than the {state.layout.total} parameters of --model {config.model}"
            )
        return Fragments(worker.engine, state, config.fragments, config.merge, overlap=config.overlap)
    if config.prune == "none":
        return SubmodelPlan(state, WholeModel(worker.engine, state))
    pruning = parse_pruning(config.prune)
    make_local, example = LocalModels(worker), _example(worker)

    def gradient_of(client: int, round_: int, submodel: Submodel) -> Tensor:
        make_local.gradients.use([])  # a client that failed may have left its mask there
        return local_gradient(trainer, worker.engine, state, client, round_, submodel)

    after = pruning.by == "after"
    shared = replace(pruning, by="server") if after else pruning
    inputs = PlanInputs(
        pruning=shared,
        schedule=f"oneshot:{config.rounds}" if after else config.prune_schedule,
        selector=make_mask_selector(shared, state, worker.engine.model, example),
        ranks=worker.ranks,
        state=state,
        make_local=make_local,
        gradient_of=gradient_of,
        seed=config.seed,
        last_round=config.rounds if config.finetune_rounds and not after else NEVER,
    )
    if after:
        return PruneAfterTraining(inputs, pruning, config.prune_schedule, config.rounds)
    able = _capabilities(worker, pruning)
    least = parse_capabilities(config.capabilities).low if able.learns else min(able.values)
    refuse_early(at_capability(pruning, least), state.layout)
    if pruning.by == "client":
        return ClientMasks(inputs, able)
    if pruning.method == "width" or config.capabilities != "none":
        absent, class_rows = [], []
        if pruning.method == "width" and worker.classes:
            counts = torch.tensor(worker.label_counts())
            absent = [(row == 0).nonzero().view(-1).to(worker.ranks.device) for row in counts]
            class_rows = class_layers(worker.engine.model, _example(worker, 8), worker.classes)
        return NestedSubmodels(inputs, able, Recovery(config.recover), absent=absent, class_layers=class_rows)
    if pruning.method == "prunefl":
        times = layer_times(worker.engine.model, example)
        return PruneFLMask(
            inputs, times=times, train=lambda client, model: trainer.train(Job(client, 0, 0), model).values
        )
    return SharedMask(inputs, rewind=pruning.rewind)


def _example(worker: Worker, samples: int = 1) -> Tensor:
    """Inputs of numbers of every size: zeros would go through a network without biases as zeros, and show nothing. Of text,
    the first samples."""
    if worker.train.x.dtype == torch.int64:
        return worker.train.x[:samples]
    shape = (samples, *worker.train.x.shape[1:])
    return torch.rand(shape, generator=torch_generator(0, "example")).to(worker.ranks.device)


def _capabilities(worker: Worker, pruning: Pruning) -> Fractions:
    config, column = worker.config, "capability"
    assert config.clients is not None
    asked = parse_capabilities(config.capabilities)
    if asked.online:
        power = 2 if pruning.method in SMALLER else 1
        return AdaptiveFractions(config.clients, floor=asked.low, power=power, column=column)
    if not asked.equal_time:
        return Fractions(capabilities(config.capabilities, config.clients, config.seed), column)
    known = profiles(config.profiles, config.clients, config.seed)
    trained = samples_trained(config, worker.sizes)
    flops = worker.make_costs().each([worker.engine.model] * len(trained), trained)
    n = worker.state.layout.total
    return Fractions(equal_time(known, flops, n, smaller=pruning.method in SMALLER, floor=asked.low), column)
