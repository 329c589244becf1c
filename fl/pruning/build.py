"""From the options to what prunes."""

from dataclasses import replace

import torch
from torch import Tensor

from fl.clock.adaptive import OnlineShares, Shares, equal_time
from fl.clock.profiles import profiles
from fl.common.seeds import torch_generator
from fl.models.submodel import Part
from fl.models.surgery.flops import layer_times
from fl.training.cost import samples_trained
from fl.training.engine import make_engine
from fl.training.gradients import MaskedGradients
from fl.training.local_gradient import local_gradient
from fl.training.local_model import LocalModel, MaskedModel, SmallModel
from fl.training.trainer import ClientTrainer
from fl.training.worker import Federation

from .after import AfterTraining
from .capacity import Recovery, capabilities, parse_capabilities
from .nested import LevelMasks
from .per_client import OwnMasks
from .plan import Masks
from .prunefl import PruneFLMask
from .select import at_capability, make_chooser, refuse_early
from .shared_mask import SharedMask
from .spec import SMALLER, Pruning, parse_pruning
from .width import class_layers


class LocalModels:
    """Makes what clients train: the engine's model under a mask, or a smaller model with an engine of its own."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.gradients = MaskedGradients(federation.engine.model, federation.state.layout.names)

    def __call__(self, part: Part, *, squares: Tensor | None = None) -> LocalModel:
        """The model of `part`; `squares` as in `MaskedModel`."""
        engine, state = self._federation.engine, self._federation.state
        if part.sub is None:
            return MaskedModel(engine, state, self.gradients, part, squares)
        own = make_engine(self._federation.config, part.sub.model, self._federation.ranks, engine.loss)
        sends = part.buffers is not None and part.buffers.numel() == part.sub.buffers.numel()
        return SmallModel(own, state, part.sub, buffers=sends)


def make_masks(federation: Federation, trainer: ClientTrainer) -> Masks | None:
    """What `--prune` makes every client hold, if anything but everything."""
    config, state = federation.config, federation.state
    if config.prune == "none":
        return None
    pruning = parse_pruning(config.prune)
    if pruning.by == "after":
        return _after_the_rounds(federation, pruning) if config.finetune_rounds else None
    make_local, seed = LocalModels(federation), config.seed
    example = _example(federation)
    chooser = make_chooser(pruning, state, federation.engine.model, example)
    assert config.clients is not None
    able = _capabilities(federation, pruning)
    least = parse_capabilities(config.capabilities).low if able.learns else min(able)
    refuse_early(at_capability(pruning, least), state.layout)
    last_round = config.rounds if config.finetune_rounds else None

    def gradient_of(client: int, round_: int, part: Part) -> Tensor:
        make_local.gradients.use(None)  # a client that failed may have left its mask there
        return local_gradient(trainer, federation.engine, state, client, round_, part)

    if pruning.by == "client":
        return OwnMasks(
            pruning,
            config.prune_schedule,
            chooser,
            state,
            make_local,
            seed=seed,
            capabilities=able,
            gradient_of=gradient_of,
            last_round=last_round,
        )
    if pruning.method == "width" or config.capabilities != "none":
        absent, class_rows = None, []
        if pruning.method == "width" and federation.classes:
            counts = torch.tensor(federation.label_counts())
            absent = [(row == 0).nonzero().view(-1).to(federation.ranks.device) for row in counts]
            class_rows = class_layers(federation.engine.model, _example(federation, 8), federation.classes)
        recovery = None if config.recover == "none" else Recovery(config.recover)
        return LevelMasks(
            pruning,
            config.prune_schedule,
            chooser,
            federation.ranks,
            state,
            make_local,
            seed=seed,
            capabilities=able,
            recovery=recovery,
            absent=absent,
            class_layers=class_rows,
            last_round=last_round,
        )
    arguments = (pruning, config.prune_schedule, chooser, federation.ranks, state, make_local)
    if pruning.method == "prunefl":
        return PruneFLMask(
            *arguments,
            seed=seed,
            gradient_of=gradient_of,
            last_round=last_round,
            times=layer_times(federation.engine.model, example),
            make_watched=make_local,
            train=lambda client, round_, model: trainer.train(client, round_, model).values,
        )
    return SharedMask(*arguments, seed=seed, gradient_of=gradient_of, rewind=pruning.rewind, last_round=last_round)


def _example(federation: Federation, samples: int = 1) -> Tensor:
    """Inputs of numbers of every size: zeros would go through a network without biases as zeros, and show nothing."""
    shape = (samples, *federation.train.x.shape[1:])
    return torch.rand(shape, generator=torch_generator(0, "example")).to(federation.ranks.device)


def _capabilities(federation: Federation, pruning: Pruning) -> Shares:
    config = federation.config
    assert config.clients is not None
    asked = parse_capabilities(config.capabilities)
    if asked.online:
        return OnlineShares(config.clients, floor=asked.low, power=2 if pruning.method in SMALLER else 1)
    if not asked.equal_time:
        return Shares(capabilities(config.capabilities, config.clients, config.seed))
    known = profiles(config.profiles, config.clients, config.seed)
    costs = federation.make_costs()
    trained = samples_trained(config, [len(part) for part in federation.parts])
    flops = costs.each([federation.engine.model] * len(trained), trained)
    n = federation.state.layout.total
    return Shares(equal_time(known, flops, n, smaller=pruning.method in SMALLER, floor=asked.low))


def _after_the_rounds(federation: Federation, pruning: Pruning) -> SharedMask:
    """Clients prune after training, and then fine-tune under one mask of the averaged weights."""
    state = federation.state
    pruning = replace(pruning, by="server")
    chooser = make_chooser(pruning, state, federation.engine.model, torch.empty(0))
    schedule, local = f"oneshot:{federation.config.rounds}", LocalModels(federation)
    seed = federation.config.seed
    no_gradient = lambda client, round_, part: torch.zeros_like(state.parameters)  # noqa: E731 - such masks need none
    return SharedMask(pruning, schedule, chooser, federation.ranks, state, local, seed=seed, gradient_of=no_gradient)


def make_after(federation: Federation) -> AfterTraining | None:
    """What prunes after local training, if `--prune` asks for it."""
    config = federation.config
    if config.prune == "none" or parse_pruning(config.prune).by != "after":
        return None
    return AfterTraining(parse_pruning(config.prune), config.prune_schedule, federation.state)
