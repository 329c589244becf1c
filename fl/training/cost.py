"""What local training costs a client: a declared cost, from shapes alone, never from a clock or an allocator."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fl.common.config import Config, TrainOptions
from fl.common.errors import ConfigError
from fl.common.mode import mode_of
from fl.data.batches import count_samples, count_steps
from fl.models.surgery.flops import flops

from .engine.base import Loss
from .engine.optimizer import make_optimizer


@dataclass(frozen=True)
class LocalCost:
    """`flops_per_sample`: floating-point operations of a training step, a sample: three times those of the forward pass.

    `memory_bytes`: weights and buffers, gradients, the optimizer's state, and what a batch keeps for the backward pass.
    """

    flops_per_sample: int
    memory_bytes: int


class Costs:
    """The cost of training the models of a run on samples of `sample_shape` with these options, autocast computing in
    `dtype`, to make `loss` of their outputs and as many `targets` small (`tokens`: samples are text, with a target for each
    token); worked out once for all models that have
    parameters of the same names and shapes.

    Nothing is computed and no memory taken: the step runs on tensors without storage, those of a CPU whatever the device
    and without the CPU's own fused operators, so that the figures are the same everywhere.
    """

    def __init__(
        self,
        options: TrainOptions,
        sample_shape: Sequence[int],
        dtype: torch.dtype,
        *,
        loss: Loss = F.cross_entropy,
        targets: torch.dtype = torch.int64,
        tokens: bool = False,
    ) -> None:
        self.options = options
        self.sample_shape = tuple(sample_shape)
        self.dtype = dtype
        self.loss = loss
        self._inputs = torch.empty(
            options.client_batch // options.accumulate,
            *self.sample_shape,
            dtype=torch.int64 if tokens else None,
            device="meta",
        )
        shape = self._inputs.shape if tokens else self._inputs.shape[:1]
        self._targets = torch.empty(shape, dtype=targets, device="meta")
        self._known: dict[tuple[Any, ...], LocalCost | None] = {}
        self._why = ""

    def of(self, model: nn.Module) -> LocalCost | None:
        """The cost of training `model`; None, and the log says why, for one that cannot run without values."""
        key = tuple((name, tuple(parameter.shape)) for name, parameter in model.named_parameters())
        if key not in self._known:
            try:
                self._known[key] = self._cost(model)
            except Exception as error:
                # The model may be anybody's, and raise anything when it looks at values that are not there.
                self._why = next(iter(str(error).strip().splitlines()), type(error).__name__)
                logging.getLogger("leanfed").info("the cost of training is not known: %s", self._why)
                self._known[key] = None
        return self._known[key]

    def _cost(self, model: nn.Module) -> LocalCost:
        forward = flops(model, self._inputs[:1])
        memory = _memory_bytes(model, self._inputs, self._targets, self.options, self.dtype, self.loss)
        return LocalCost(3 * forward, memory)

    def each(self, models: Sequence[nn.Module], trained: Sequence[int]) -> list[float]:
        """`flops`, for a clock; ConfigError where they are not known."""
        known = [count for count in self.flops(models, trained) if count is not None]
        if len(known) < len(models):
            raise ConfigError(
                f"this model's operations cannot be counted ({self._why}), so its training has no virtual time: "
                "use --mode sync without --deadline and --profiles"
            )
        return [float(count) for count in known]

    def flops(self, models: Sequence[nn.Module], trained: Sequence[int]) -> list[int | None]:
        """Floating-point operations of clients that train these models on `trained` samples each, repetitions counted;
        None where they are not known."""
        costs = [self.of(model) for model in models]
        return [
            None if cost is None else cost.flops_per_sample * count for cost, count in zip(costs, trained, strict=True)
        ]

    def memory_bytes(self, models: Sequence[nn.Module]) -> int | None:
        """What training takes on the client that needs most; None where it is not known of all."""
        costs = [self.of(model) for model in models]
        known = [cost.memory_bytes for cost in costs if cost is not None]
        return max(known) if known and len(known) == len(costs) else None


def samples_trained(config: Config, samples: Sequence[int]) -> list[int]:
    """How many samples each client goes through in a round, repetitions counted; `samples`: those that it has."""
    epochs, steps = config.local_epochs, config.local_steps
    if steps is None and not mode_of(config).has_server:  # every rank takes as many steps as the largest client needs
        epochs, steps = None, max(count_steps(count, config.client_batch, epochs, None) for count in samples)
    return [count_samples(count, config.client_batch, epochs, steps) for count in samples]


def _memory_bytes(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    options: TrainOptions,
    dtype: torch.dtype,
    loss_of: Loss,
) -> int:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    bare = _without_values(model, mode).train()
    with mode, _plain_operators():
        trained = [parameter for parameter in bare.parameters() if parameter.requires_grad]
        weights = _Storages([*bare.parameters(), *bare.buffers()])
        saved = _Storages()
        x, y = (torch.empty_like(batch, device="cpu") for batch in (inputs, targets))
        autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(saved.add, _itself), autocast:
            loss = loss_of(bare(x), y)
        activations = saved.bytes_beside(weights)
        del loss
        optimizer = make_optimizer(options, trained, lr=0.0)
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        state = _Storages(v for one in optimizer.state.values() for v in one.values() if isinstance(v, Tensor))
        gradients = _Storages(parameter.grad for parameter in trained if parameter.grad is not None)
        return weights.bytes() + gradients.bytes() + state.bytes() + activations


def _itself(tensor: Tensor) -> Tensor:
    return tensor


@contextmanager
def _plain_operators() -> Iterator[None]:
    """Without oneDNN, whose LSTM keeps a workspace that tensors without storage do not show; and without torch's log,
    which prints a traceback for a model that cannot run so."""
    log, mkldnn = logging.getLogger(FakeTensorMode.__module__), torch.backends.mkldnn
    before = log.disabled, mkldnn.enabled
    log.disabled, mkldnn.enabled = True, False  # type: ignore[assignment]
    try:
        yield
    finally:
        log.disabled, mkldnn.enabled = before


def _without_values(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy of `model` whose parameters and buffers have no storage; other tensors that it keeps are real, on the CPU."""
    bare: dict[int, Any] = {}
    with mode:
        for buffer in model.buffers():
            bare[id(buffer)] = torch.empty_strided(buffer.shape, buffer.stride(), dtype=buffer.dtype)
        for parameter in model.parameters():
            empty = torch.empty_strided(parameter.shape, parameter.stride(), dtype=parameter.dtype)
            bare[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    with _CopiesToCpu():
        return deepcopy(model, bare)


class _CopiesToCpu(TorchFunctionMode):
    """Where tensors are copied with what holds them, the copies lie on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As torch calls it, around every function of tensors."""
        result = func(*args, **(kwargs or {}))
        return result.cpu() if func is Tensor.__deepcopy__ else result


class _Storages:
    """The memory under some tensors, each piece once however many of them share it."""

    def __init__(self, tensors: Any = ()) -> None:
        self._known: dict[int, torch.UntypedStorage] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> Tensor:
        """Count the memory under `tensor`, and return it."""
        storage = tensor.untyped_storage()
        self._known[storage._cdata] = storage  # held, so that no other storage can get its number
        return tensor

    def bytes(self) -> int:
        """Size of all pieces."""
        return sum(storage.nbytes() for storage in self._known.values())

    def bytes_beside(self, others: "_Storages") -> int:
        """Size of the pieces that are not among `others`."""
        return sum(storage.nbytes() for key, storage in self._known.items() if key not in others._known)
