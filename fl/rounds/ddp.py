"""`--mode step`: ordinary DistributedDataParallel whose gradients go through a codec hook at every step."""

import copy
import dataclasses
import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, codec_hook
from compression.phases import phase
from fl.comm.encoder import CodecSchedule
from fl.comm.message import ClientReport
from fl.common.errors import ConfigError
from fl.common.generators import seeded
from fl.data.batches import count_steps
from fl.models.own_state import OwnState
from fl.models.update import Job
from fl.output.client_states import make_states
from fl.training.engine.optimizer import make_optimizer
from fl.training.engine.plain import PlainEngine
from fl.training.local_model import WholeModel
from fl.training.schedule import first_learning_rate
from fl.training.worker import Worker

from .base import Rounds, transaction
from .result import Held, Peers, RoundResult, gather_reports

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

    def __init__(self, worker: Worker, hook: CodecHook) -> None:
        config, device = worker.config, worker.ranks.device
        super().__init__(config, worker.engine.model, device, worker.engine.loss)
        self._device, self._hook, self._ranks = device, hook, worker.ranks
        self.optimizer = self._optimizer = make_optimizer(config, self._params, first_learning_rate(config))
        self.network = self._wrap()

    def _wrap(self) -> nn.Module:
        """The model in DDP, with the hook. Collective."""
        unsynchronised: dict[str, Any] = {_SYNC_BUFFERS: False}
        ddp = DistributedDataParallel(
            self.model,
            device_ids=[self._device.index] if self._device.type == "cuda" else None,
            bucket_cap_mb=None if self._hook.codec.plain else _ONE_BUCKET_MB,
            **unsynchronised,
        )
        ddp.register_comm_hook(self._hook, codec_hook)
        return ddp

    def start(self, lr: float, done: int = 0) -> None:
        """Begin a round: the optimizer goes on at this learning rate. Collective after `reset`."""
        if self.network is self.model:
            self.network = self._wrap()
        self.network.train()
        self.set_rate(lr)

    def reset(self) -> None:
        """A round has failed, perhaps in the middle of a backward pass, whose end DDP's reducer would wait for."""
        self.optimizer.zero_grad()
        if self.network is not self.model:
            del self.network.logger, self.network.reducer  # the parameters call the reducer as long as it lives
            self.network = self.model

    def finish(self) -> None:
        """End the round; the weights are in `model` already."""

    @property
    def can_halve(self) -> bool:
        """Not alone: every backward pass of DDP is an exchange with the other ranks."""
        return False

    @phase("backward")
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


def _leaves_out(worker: Worker) -> bool:
    """Whether some trial steps, on any rank, leave a parameter without a gradient; collective."""
    model, ranks, rows = worker.engine.model, worker.ranks, worker.parts[worker.ranks.rank][:2]
    x, y = worker.normalise(worker.train.x[rows]), worker.train.y[rows]
    own, found = OwnState(model), 0
    model.train()
    for trial in range(_TRIALS):
        with seeded(worker.config.seed, "trial", trial, ranks.rank):
            worker.engine.loss(model(x), y).backward()
        found += any(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        model.zero_grad()
    own.put_back()
    return bool(ranks.sum(torch.tensor(found, device="cpu")))


def _check_model(worker: Worker) -> None:
    """ConfigError for a model that DDP cannot train on this device."""
    config, modules = worker.config, worker.engine.model.modules()
    if worker.ranks.device.type != "cuda" and any(isinstance(module, nn.SyncBatchNorm) for module in modules):
        raise ConfigError(
            f"--model {config.model} has SyncBatchNorm, which works on GPUs alone, and this run is on the CPU: take "
            "BatchNorm, whose statistics are averaged every round"
        )


class DdpRounds(Rounds):
    """Every rank is one client with its own data; all hold the same weights and the same optimizer state.

    A round is as many steps as the largest client needs for its local epochs; smaller clients pass over their data
    again. BatchNorm's statistics are each rank's own during a round and are averaged, and counted, at its end. A codec
    gets the whole gradient in one DDP bucket, since coordinates compete over the whole model and DDP's own buckets would
    be others after a restart; `none` keeps DDP's own.
    """

    def __init__(self, worker: Worker) -> None:
        config = worker.config
        _check_model(worker)
        self._worker = worker
        self._steps = config.local_steps or max(
            count_steps(len(part), config.batch_size, config.local_epochs, None) for part in worker.parts
        )
        named = worker.engine.model.named_parameters()
        self._uplink = CodecSchedule(config.uplink, config.uplink_warmup)
        self.hook = CodecHook(config.uplink, named, error_feedback=config.error_feedback, seed=config.seed)
        if self.hook.codec.plain and worker.ranks.world_size > 1:
            self.hook.some_unused = _leaves_out(worker)
        self._engine = StepEngine(worker, self.hook)
        self._optimizer = self._engine.optimizer
        options = dataclasses.replace(config, local_epochs=None, local_steps=self._steps)
        self._trainer = dataclasses.replace(worker, config=options, engine=self._engine).make_trainer()
        self.states = make_states(config, worker.ranks)

    def run(self, number: int) -> RoundResult:
        ranks, state, traffic = self._worker.ranks, self._worker.state, self.hook.traffic
        before = dataclasses.replace(traffic)
        self.hook.sender.codec, self.hook.calls = self._uplink.at(number), number * self._steps
        self._before = copy.deepcopy(self._optimizer.state_dict()), self.hook.sender.snapshot()
        with transaction([self]):
            update = self._trainer.train(Job(ranks.rank, number, number), WholeModel(self._engine, state))
            buffers = self._average_buffers(update.buffers)
        # Global - (global - local) need not be local to the bit: take over what DDP left on every rank.
        state.read_parameters(self._engine.model)
        state.buffers.copy_(buffers)
        buffers_bytes = buffers.numel() * buffers.element_size()
        kept = (traffic.kept - before.kept) / max(1, traffic.coordinates - before.coordinates)
        report = ClientReport(
            client=update.client,
            samples=update.samples,
            train_loss=update.train_loss,
            train_s=update.train_s,
            kept=round(kept * state.layout.total),
            sizes={"update": traffic.sent_bytes - before.sent_bytes + buffers_bytes},
        )
        received_bytes = traffic.received_bytes - before.received_bytes + buffers_bytes
        reports, received = gather_reports(ranks, report, received_bytes)
        return RoundResult(
            reports,
            Held(state.layout.total, state.buffers.numel()),
            update_norm=float(torch.linalg.vector_norm(update.values)),
            peers=Peers(self._steps, received),
        )

    @phase("transfer")
    def _average_buffers(self, buffers: Tensor) -> Tensor:
        """The mean of the BatchNorm statistics over the ranks, [m]."""
        ranks = self._worker.ranks
        if not buffers.numel():
            return buffers
        total = buffers.to(ranks.wire_device)
        dist.all_reduce(total)
        return total.div_(ranks.world_size)

    def commit(self) -> None:
        """The optimizer and the hook have what the round made of them; the copies of before are not kept."""
        del self._before

    def rollback(self) -> None:
        """Moments and residuals as they were before the round; the global model has not changed."""
        moments, sender = self._before
        self._engine.reset()
        self._optimizer.load_state_dict(moments)
        self.hook.sender.restore(sender)

    def put_states(self) -> None:
        """The residuals by parameter name; how often the hook was called follows from the round."""
        self.states.put(self._worker.ranks.rank, self.hook.sender.state_dict())
        self.states.commit()

    def state_dict(self) -> dict[str, Any]:
        """The model and the optimizer's state, which is the same on every rank."""
        state = self._worker.state
        model = {"parameters": state.parameters.clone(), "buffers": state.buffers.clone()}
        moments = {
            str(position): {key: torch.as_tensor(value).clone() for key, value in own.items()}
            for position, own in self._optimizer.state_dict()["state"].items()
        }
        return {"model": model, "optimizer": moments}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        ranks = self._worker.ranks
        own = self.states.get(ranks.rank)
        self.hook.load_state_dict({name: tensor.to(ranks.device) for name, tensor in own.items()})
        self._worker.state.parameters.copy_(state["model"]["parameters"])
        self._worker.state.buffers.copy_(state["model"]["buffers"])
        whole = self._optimizer.state_dict()
        whole["state"].update({int(position): dict(own) for position, own in state["optimizer"].items()})
        self._optimizer.load_state_dict(whole)
        # Fused kernels walk through memory: moments must lie there in the order of their weights (channels-last, say).
        for parameter, moments in self._optimizer.state.items():
            for key, value in moments.items():
                if value.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter).copy_(value)
