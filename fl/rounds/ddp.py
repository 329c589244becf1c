"""`--mode step`: ordinary DistributedDataParallel whose gradients go through a codec hook at every step."""

import dataclasses
import inspect
import itertools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, codec_hook
from fl.comm.codecs import Uplink
from fl.comm.message import ClientReport
from fl.common.errors import ConfigError
from fl.common.seeds import seeded
from fl.data.batches import count_steps
from fl.models.own_state import OwnState
from fl.output.client_states import ClientStates
from fl.training.engine.optimizer import make_optimizer
from fl.training.engine.plain import PlainEngine
from fl.training.local_model import WholeModel
from fl.training.schedule import first_learning_rate
from fl.training.worker import Federation

from .result import RoundOutcome, Wasted

_TRIALS = 8
_ONE_BUCKET_MB = 1 << 20
# The name since torch 2.13, and the one before.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class _Unused(torch.autograd.Function):
    """A number that depends on parameters, whose gradient is none."""

    @staticmethod
    def forward(ctx: Any, *parameters: Tensor) -> Tensor:
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        return (None,) * len(ctx.needs_input_grad)


class StepEngine(PlainEngine):
    """Local steps through DDP with a codec hook; the optimizer lives as long as the run.

    A step may leave parameters out (dropped layers, experts). DDP's `find_unused_parameters` would search the graph in every
    step of every model; here only what has no gradient after the backward pass is told to DDP. What no rank used keeps
    its weights and moments, as in local training: the ranks tell each other where they know that it happens.
    """

    def __init__(self, federation: Federation, hook: CodecHook) -> None:
        config, device = federation.config, federation.ranks.device
        super().__init__(config, federation.engine.model, device, federation.engine.loss)
        unsynchronised: dict[str, Any] = {_SYNC_BUFFERS: False}
        ddp = DistributedDataParallel(
            self.model,
            device_ids=[device.index] if device.type == "cuda" else None,
            bucket_cap_mb=None if hook.codec.plain else _ONE_BUCKET_MB,
            **unsynchronised,
        )
        ddp.register_comm_hook(hook, codec_hook)
        self._network = ddp
        self._hook, self._ranks = hook, federation.ranks
        self.optimizer = self._optimizer = make_optimizer(config, self._params, first_learning_rate(config))

    def start(self, lr: float, done: int = 0) -> None:
        """Begin a round: the optimizer goes on at this learning rate."""
        self._network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def finish(self) -> None:
        """End the round; the weights are in `model` already."""

    def _backward(self, loss: Tensor) -> None:
        loss.backward()
        left_out = torch.tensor([parameter.grad is None for parameter in self._params], device="cpu")
        if left_out.any():  # then DDP still waits for these, and other ranks for this one
            unused = list(itertools.compress(self._params, left_out))
            frozen = [parameter for parameter in unused if not parameter.requires_grad]  # in the forward pass
            for parameter in frozen:
                parameter.requires_grad_(True)
            _Unused.apply(*unused).backward()
            for parameter in frozen:
                parameter.requires_grad_(False)
        if self._hook.some_unused:
            left_out = self._ranks.sum(left_out.long()) == self._ranks.world_size
        elif self._ranks.world_size > 1:
            return
        for parameter in itertools.compress(self._params, left_out):
            parameter.grad = None


def _leaves_out(federation: Federation) -> bool:
    """Whether some trial steps, on any rank, leave a parameter without a gradient; collective."""
    model, ranks, rows = federation.engine.model, federation.ranks, federation.parts[federation.ranks.rank][:2]
    x, y = federation.normalise(federation.train.x[rows]), federation.train.y[rows]
    own, found = OwnState(model), 0
    model.train()
    for trial in range(_TRIALS):
        with seeded(federation.config.seed, "trial", trial, ranks.rank):
            federation.engine.loss(model(x), y).backward()
        found += any(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        model.zero_grad()
    own.put_back()
    return bool(ranks.sum(torch.tensor(found, device="cpu")))


def _check_model(federation: Federation) -> None:
    """ConfigError for a model that DDP cannot train on this device."""
    config, modules = federation.config, federation.engine.model.modules()
    if federation.ranks.device.type != "cuda" and any(isinstance(module, nn.SyncBatchNorm) for module in modules):
        raise ConfigError(
            f"--model {config.model} has SyncBatchNorm, which works on GPUs alone, and this run is on the CPU: take "
            "BatchNorm, whose statistics are averaged every round"
        )


class StepMode:
    """Every rank is one client with its own data; all hold the same weights and the same optimizer state.

    A round is as many steps as the largest client needs for its local epochs; smaller clients pass over their data
    again. BatchNorm's statistics are each rank's own during a round and are averaged, and counted, at its end. A codec
    gets the whole gradient in one DDP bucket, since coordinates compete over the whole model and DDP's own buckets would
    be others after a restart; `none` keeps DDP's own.
    """

    def __init__(self, federation: Federation) -> None:
        config = federation.config
        _check_model(federation)
        self._federation = federation
        self._steps = config.local_steps or max(
            count_steps(len(part), config.batch_size, config.local_epochs, None) for part in federation.parts
        )
        named = federation.engine.model.named_parameters()
        self._uplink = Uplink(config.uplink, config.uplink_warmup)
        self.hook = CodecHook(config.uplink, named, error_feedback=config.error_feedback, seed=config.seed)
        if self.hook.codec.plain and federation.ranks.world_size > 1:
            self.hook.some_unused = _leaves_out(federation)
        self._engine = StepEngine(federation, self.hook)
        self._optimizer = self._engine.optimizer
        options = dataclasses.replace(config, local_epochs=None, local_steps=self._steps)
        self._trainer = dataclasses.replace(federation, config=options, engine=self._engine).make_trainer()

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `fl.rounds.base.Rounds.run`; the cohort is every rank."""
        ranks, state, traffic = self._federation.ranks, self._federation.state, self.hook.traffic
        before = dataclasses.replace(traffic)
        self.hook.sender.codec, self.hook.calls = self._uplink.at(round_), round_ * self._steps
        update = self._trainer.train(ranks.rank, round_, WholeModel(self._engine, state))
        # Global - (global - local) need not be local to the bit: take over what DDP left on every rank.
        state.read_parameters(self._engine.model)
        buffers_bytes = self._average_buffers(update.buffers)
        kept = (traffic.kept - before.kept) / max(1, traffic.coordinates - before.coordinates)
        report = ClientReport(
            client=update.client,
            samples=update.samples,
            train_loss=update.train_loss,
            train_s=update.train_s,
            uplink_bytes=traffic.sent_bytes - before.sent_bytes + buffers_bytes,
            kept=round(kept * state.layout.total),
        )
        outcome = RoundOutcome(update_norm=float(torch.linalg.vector_norm(update.values)), exchanges=self._steps)
        outcome.gather(ranks, report, traffic.received_bytes - before.received_bytes + buffers_bytes)
        return outcome

    def _average_buffers(self, buffers: Tensor) -> int:
        """Average the BatchNorm statistics over the ranks into the global model; returns the bytes, each way."""
        ranks, state = self._federation.ranks, self._federation.state
        if not buffers.numel():
            return 0
        total = buffers.to(ranks.wire_device)
        dist.all_reduce(total)
        state.buffers.copy_(total.div_(ranks.world_size))
        return total.numel() * total.element_size()

    def cohort(self, round_: int, now: float = 0.0) -> list[int]:
        """As in `fl.rounds.base.Rounds.cohort`: every rank."""
        return list(range(self._federation.ranks.world_size))

    def wait_s(self, client: int, now: float) -> float:
        """As in `fl.rounds.base.Rounds.wait_s`: nobody waits."""
        return 0.0

    @property
    def by_time(self) -> bool:
        """As in `fl.rounds.base.Rounds.by_time`: there is no virtual time."""
        return False

    def timed(self, round_: int, rows: Any) -> list[str]:
        """As in `fl.rounds.base.Rounds.timed`."""
        return []

    @property
    def capabilities(self) -> list[float] | None:
        """As in `fl.rounds.base.Rounds.capabilities`: all hold all of it."""
        return None

    def plan(self) -> dict[str, Any]:
        """As in `fl.rounds.base.Rounds.plan`: nothing."""
        return {}

    def load_plan(self, plan: dict[str, Any]) -> None:
        """As in `fl.rounds.base.Rounds.load_plan`."""

    def before_evaluation(self, round_: int, cohort: list[int]) -> None:
        """As in `fl.rounds.base.Rounds.before_evaluation`: nothing to do."""

    def evaluated(self, round_: int, val_score: float | None) -> None:
        """As in `fl.rounds.base.Rounds.evaluated`: nothing depends on it."""

    @property
    def ledger(self) -> None:
        """As in `fl.rounds.base.Rounds.ledger`: rounds are charged when they are over."""
        return None

    def unfinished(self) -> list[Wasted]:
        """As in `fl.rounds.base.Rounds.unfinished`: nobody is."""
        return []

    @property
    def query_bytes(self) -> tuple[int, int]:
        """As in `fl.rounds.base.Rounds.query_bytes`: nothing."""
        return 0, 0

    @property
    def has_client_state(self) -> bool:
        """As in `fl.rounds.base.Rounds.has_client_state`."""
        return self.hook.sender.has_state

    def client_state(self, client: int) -> dict[str, Tensor]:
        """As in `fl.rounds.base.Rounds.client_state`: the residuals by parameter name."""
        return self.hook.state_dict()

    def load_client_state(self, client: int, state: dict[str, Tensor]) -> None:
        """As in `fl.rounds.base.Rounds.load_client_state`."""
        device = self._federation.ranks.device
        self.hook.load_state_dict({name: tensor.to(device) for name, tensor in state.items()})

    def attach_states(self, states: ClientStates) -> bool:
        """As in `fl.rounds.base.Rounds.attach_states`: a rank has one client, whose state stays."""
        return False

    def server_state(self) -> dict[str, Tensor]:
        """As in `fl.rounds.base.Rounds.server_state`; the optimizer's state is the same on every rank."""
        named = {"parameters": self._federation.state.parameters, "buffers": self._federation.state.buffers}
        for position, state in self._optimizer.state_dict()["state"].items():
            for key, value in state.items():
                named[f"optimizer.{position}.{key}"] = torch.as_tensor(value)
        return named

    def load_server_state(self, state: dict[str, Tensor]) -> None:
        """As in `fl.rounds.base.Rounds.load_server_state`."""
        self._federation.state.parameters.copy_(state.pop("parameters"))
        self._federation.state.buffers.copy_(state.pop("buffers"))
        whole = self._optimizer.state_dict()
        for name, value in state.items():
            _, position, key = name.split(".", 2)
            whole["state"].setdefault(int(position), {})[key] = value
        self._optimizer.load_state_dict(whole)
        # Fused kernels walk through memory: moments must lie there in the order of their weights (channels-last, say).
        for parameter, moments in self._optimizer.state.items():
            for key, value in moments.items():
                if value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter).copy_(value)
