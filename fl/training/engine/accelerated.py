"""Local training through an `accelerate.Accelerator`."""

import os
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compression.phases import phase
from fl.common.config import TrainOptions
from fl.common.errors import ConfigError, explained
from fl.common.launch import environment_kept
from fl.common.ranks import Ranks

from .base import LocalEngine, Loss
from .optimizer import make_optimizer
from .precision import Precision, resolve_precision

_FOREIGN = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "ACCELERATE_USE_MEGATRON_LM")


class AcceleratedEngine(LocalEngine):
    """The same steps as `PlainEngine`, through Accelerate: its autocast, backward, clipping and scaled optimizer.

    Only the optimizer is prepared. A prepared model would be wrapped in DDP, which averages the clients at every step.
    """

    name: ClassVar[str] = "accelerate"

    def __init__(
        self,
        options: TrainOptions,
        model: nn.Module,
        device: torch.device,
        loss: Loss = F.cross_entropy,
        peers: Ranks | None = None,
    ) -> None:
        precision = _precision(options.precision, device)
        super().__init__(options, model, device, precision, loss, peers)
        self._mixed = "no" if precision == "fp32" else precision
        self._accelerator = _make_accelerator(self._mixed, device)

    def start(self, lr: float, done: int = 0) -> None:
        """Begin a client: a new optimizer, prepared, and for fp16 a new loss scaler."""
        accelerator = self._accelerator
        if accelerator.mixed_precision != self._mixed:
            # Accelerate's state is one for the whole process: a later engine has changed it under this one.
            raise RuntimeError(f"another Accelerator has set mixed precision {accelerator.mixed_precision} since")
        self.model.train()
        if accelerator.scaler is not None:
            accelerator.scaler = torch.amp.GradScaler(self.device.type)
        self.moved = accelerator.scaler is None
        # It remembers every optimizer that it ever prepared, and unscales them all before clipping.
        accelerator._optimizers.clear()
        self._optimizer = accelerator.prepare_optimizer(make_optimizer(self._options, self._params, lr))
        self._optimizer.zero_grad()

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        accelerator = self._accelerator
        assert self._optimizer is not None, "start() comes before step()"
        if self.moved:
            loss = self._accumulate(x, y, self._loss_of, self._backward)
            self._take_step()
            return loss
        loss = self._loss_of(x, y)

        def attempt() -> None:
            self._backward(loss, keep_graph=True)
            self._take_step()

        self._first_step(loss, attempt, accelerator.scaler.get_scale)
        return loss.detach()

    @property
    def can_halve(self) -> bool:
        return self.precision != "fp16" and self._peers is None and not self._has_hooks()

    @phase("forward")
    def _loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        with self._accelerator.autocast():
            return self.loss(self.model(self._layout(x)), y)

    @phase("backward")
    def _backward(self, loss: Tensor, *, keep_graph: bool = False) -> None:
        self._accelerator.backward(loss, retain_graph=keep_graph)

    @phase("optimizer")
    def _take_step(self) -> None:
        if self._options.clip_norm:
            self._accelerator.clip_grad_norm_(self._params, self._options.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def finish(self) -> None:
        """End the client; the weights are in `model` already."""
        self._accelerator._optimizers.clear()
        self._optimizer = None


def _precision(option: str, device: torch.device) -> Precision:
    """`--precision`, or with `auto` what `accelerate launch --mixed_precision` asked for, if anything."""
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched != "no":
        if option == "auto":
            option = launched
        elif option != launched:
            raise ConfigError(
                f"--precision {option} contradicts --mixed_precision {launched} of accelerate launch: "
                "remove one of them"
            )
    if option not in ("auto", "fp32", "bf16", "fp16"):
        raise ConfigError(f"accelerate launch --mixed_precision {option}: use no, bf16 or fp16")
    if option == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16: Accelerate has it on GPUs only; use bf16 or fp32 here, or --engine ddp")
    return resolve_precision(option, device)


def _make_accelerator(mixed: str, device: torch.device) -> Any:
    for name in _FOREIGN:
        if os.environ.get(name, "false").lower() == "true":
            flag = name.removeprefix("ACCELERATE_").lower()
            raise ConfigError(
                f"accelerate launch --{flag}: a client trains alone on its rank, so use --multi_gpu (for CPUs too)"
            )
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    cpu = device.type == "cpu"
    state = AcceleratorState._shared_state
    if state and (state.get("_mixed_precision") != mixed or state.get("_cpu") != cpu):
        # Accelerate refuses a second Accelerator with other settings; the process group survives this.
        AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    with environment_kept(), warnings.catch_warnings(), explained("accelerate launch"):
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS")
        accelerator = Accelerator(cpu=cpu, mixed_precision=mixed)
    # On several CPU ranks Accelerate chooses a thread count of its own, and other threads mean other bits.
    torch.set_num_threads(threads)
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            f"accelerate launch --gradient_accumulation_steps {accelerator.gradient_accumulation_steps}: "
            "leave it at 1, and say --accumulate"
        )
    return accelerator
