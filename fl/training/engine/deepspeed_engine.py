"""Local training in a DeepSpeed engine, one client at a time (ZeRO stage 0)."""

import contextlib
import copy
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compression.phases import phase
from fl.common.config import Config
from fl.common.errors import explained
from fl.common.ranks import Ranks
from fl.models.own_state import OwnState

from ..schedule import first_learning_rate
from .base import LocalEngine, Loss
from .deepspeed_config import engine_config
from .deepspeed_json import DeepSpeedJson
from .deepspeed_setup import Groups, quiet_deepspeed
from .optimizer import fill_momentum, make_optimizer
from .peers import mean_loss, share_of
from .precision import autocast_dtype, lay_out, resolve_precision

if TYPE_CHECKING:
    from . import RanksLike


class DeepSpeedEngine(LocalEngine):
    """DeepSpeed's engine, as its JSON file describes it, in ZeRO stage 0.

    One engine serves all clients of a rank; `start` has it make its optimizer, masters, loss scaler and schedule anew
    by DeepSpeed's own constructors. In fp32 and under autocast it trains `model` itself; in DeepSpeed's 16-bit modes it
    trains a 16-bit copy, whose fp32 masters are loaded from `model` and written back.

    The ranks that train a client together are the world to DeepSpeed (see `Groups`), so no step waits for another client.
    """

    name: ClassVar[str] = "deepspeed"

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        ranks: "RanksLike",
        file: DeepSpeedJson,
        loss: Loss = F.cross_entropy,
        peers: Ranks | None = None,
    ) -> None:
        super().__init__(config, model, ranks.device, resolve_precision(config.precision, ranks.device), loss, peers)
        self._config = config
        self._file = file
        self._native = file.is_native(self.precision)
        self._together = contextlib.nullcontext if peers is None else peers.together
        self._lr = first_learning_rate(config)
        if self._native or file.zero_stage:
            self.network = copy.deepcopy(self.model)
        trained = self.network
        self._engine = self._initialize(trained, ranks)
        self._own = OwnState(trained, dict(trained.named_buffers()))
        # A client that trains alone averages nothing, not even over its one rank, which would copy all gradients.
        self._engine.enable_backward_allreduce = peers is not None
        self._groups: list[dict[str, Any]] = _parameter_groups(trained)
        self._input_dtype = autocast_dtype(self.precision) if self._native else torch.float32
        self._scheduler = self._engine.lr_scheduler
        self._advance(1)  # one that cannot is found out now

    def start(self, lr: float, done: int = 0) -> None:
        """Begin a client: DeepSpeed's optimizer, fp32 masters, loss scaler, schedule and counters are made anew.

        A scheduler in the JSON file starts from `lr`, or from a rate of its own, and is taken `done` steps further.
        """
        engine = self._engine
        self._lr = lr
        engine.train()
        self._renew()
        self._optimizer = engine.optimizer
        self.set_rate(lr)
        engine._configure_lr_scheduler()
        # Not left to DeepSpeed, which takes a step of it in some of the cases where the optimizer has skipped one.
        self._scheduler, engine.lr_scheduler = engine.lr_scheduler, None
        self._advance(done)
        self.moved = self.precision != "fp16"
        if engine.torch_autocast_z0_gradscaler is not None:
            engine.torch_autocast_z0_gradscaler = torch.amp.GradScaler(self.device.type)
        engine.global_steps = engine.global_samples = engine.micro_steps = engine.skipped_steps = 0
        engine._global_grad_norm = None
        engine.zero_grad()

    def _renew(self) -> None:
        """Take the weights in `model`, and an optimizer that has seen nothing."""
        engine = self._engine
        if self._native:
            self._own.put_back()
            _copy_tensors(self.model, engine.module)
        groups = [dict(group) for group in self._groups]
        engine._configure_optimizer(self._make_optimizer if self._is_ours else None, groups)
        # With 16-bit models DeepSpeed takes a step with zero gradients to allocate the state, so weight decay is in it.
        engine.basic_optimizer.state.clear()
        if self._native:
            for master, own in self._masters():
                master.data.copy_(own.data)
        fill_momentum(engine.basic_optimizer)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """DeepSpeed averages over the client's ranks, clips, scales and steps."""
        x, y, weight = (x, y, 1.0) if self._peers is None else share_of(self._peers, x, y)
        with self._together(), phase("forward"):
            inputs = self._layout(x)
            outputs = self._engine(inputs.to(self._input_dtype) if inputs.is_floating_point() else inputs)
            loss = self.loss(outputs.float(), y)
            loss = loss if weight == 1 else loss * weight
        if self.moved:
            self._backward_and_step(loss)
        else:
            taken = self._engine.was_step_applied if self._native else None
            self._first_step(loss, lambda: self._backward_and_step(loss, keep_graph=True), self._loss_scale, taken)
        if self._scheduler is not None:
            self._advance(1)
        return loss.detach() if self._peers is None else mean_loss(self._peers, loss)

    def _backward_and_step(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        # DeepSpeed 0.19's fp16 optimizers divide gradients by the loss scale, but without ZeRO its engine does not
        # multiply the loss by it (https://github.com/deepspeedai/DeepSpeed/pull/8393).
        scaled = self._native and self.precision == "fp16"
        with phase("backward"):
            self._engine.backward(loss * self._loss_scale() if scaled else loss, retain_graph=keep_graph)
        with phase("optimizer"):
            self._engine.step()

    def _loss_scale(self) -> float:
        scaler = self._engine.torch_autocast_z0_gradscaler
        return float(self._engine.optimizer.loss_scale if scaler is None else scaler.get_scale())

    def _advance(self, steps: int) -> None:
        """Take the file's scheduler, if it has one, `steps` further."""
        scheduler = self._scheduler
        if scheduler is None or not steps:
            return
        with self._explained(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            if hasattr(scheduler, "last_batch_iteration"):  # DeepSpeed's own know the rate of any step
                scheduler.step(scheduler.last_batch_iteration + steps)
            else:
                for _ in range(steps):
                    scheduler.step()

    def finish(self) -> None:
        """End the client: in 16-bit modes `model` gets the fp32 masters and the buffers of the copy."""
        if self._native:
            _copy_tensors(self._engine.module, self.model)
            for master, own in self._masters():
                own.data.copy_(master.data)

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        path = self._config.deepspeed_config
        return explained("--engine deepspeed" if path is None else f"--deepspeed-config {path}")

    @property
    def _is_ours(self) -> bool:
        return self._file.optimizer_type is None or self._file.torch_optimizer is not None

    def _make_optimizer(self, groups: list[Any]) -> torch.optim.Optimizer:
        extras = {k: tuple(v) if isinstance(v, list) else v for k, v in self._file.optimizer_extras.items()}
        return make_optimizer(self._config, groups, self._lr, exact=True, **extras)  # DeepSpeed looks at the class

    def _initialize(self, trained: nn.Module, ranks: "RanksLike") -> Any:
        given = engine_config(self._file, self._config, self.precision)
        # DeepSpeed sends the first weights around its group as bytes, which it can view in contiguous tensors only.
        trained._apply(lambda tensor: tensor.contiguous())
        with quiet_deepspeed(ranks.device, ranks.local_rank) as deepspeed, self._explained():
            engine, *_ = deepspeed.initialize(
                args=SimpleNamespace(device_rank=ranks.device.index or 0),
                model=trained,
                optimizer=self._make_optimizer if self._is_ours else None,
                model_parameters=[p for p in trained.parameters() if p.requires_grad],
                mpu=Groups(ranks.rank, self._peers),
                config=given,
            )
        if self._file.zero_stage:
            return engine  # ZeRO has laid the weights out in memory of its own
        if self._native:
            # Running statistics stay fp32 in DeepSpeed, and batch norm computes only with weights of the same type.
            for module in trained.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.float()
        lay_out(trained, self.memory_format)
        return engine

    def _masters(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every fp32 master with the parameter of `model` that it stands for."""
        own = dict(zip(self._engine.module.parameters(), self.model.parameters(), strict=True))
        optimizer = self._engine.optimizer
        if hasattr(optimizer, "fp32_groups"):
            for masters, params in zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True):
                for master, param in zip(masters, params, strict=True):
                    yield master, own[param]
        else:  # with its fused optimizers DeepSpeed keeps one flat master a group
            for flat, params in zip(optimizer.fp32_groups_flat, optimizer.fp16_groups, strict=True):
                parts = flat.detach().split([param.numel() for param in params])
                for part, param in zip(parts, params, strict=True):
                    yield part.view(param.shape), own[param]


def _parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters, one group a type, since DeepSpeed's fused optimizers flatten a group."""
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(parameter.dtype, []).append(parameter)
    return [{"params": params} for params in groups.values()]


@torch.no_grad()
def _copy_tensors(source: nn.Module, target: nn.Module) -> None:
    """Copy every parameter and buffer, rounding to the type of the target."""
    tensors = zip([*source.parameters(), *source.buffers()], [*target.parameters(), *target.buffers()], strict=True)
    for read, write in tensors:
        write.copy_(read)
