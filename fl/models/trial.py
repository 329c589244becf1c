"""A model's first forward passes: what would end a run in the middle of a round is said before it starts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fl.common.errors import ConfigError
from fl.common.plugin import reason

from .own_state import OwnState
from .surgery.cut import AVERAGED_COUNTS, FIXED_TABLES, averaged


def run_once(name: str, model: nn.Module, x: Tensor, *, training: bool) -> Any:
    """What `--model name` gives for the samples `x`, [N, ...]; ConfigError, with the reason, if it fails."""
    model.train(training)
    before = torch.get_default_dtype(), torch.get_default_device()
    try:
        outputs = model(x)
    except Exception as error:
        mode = "training" if training else "evaluation"
        raise ConfigError(
            f"--model {name} must take a batch of samples of shape {list(x.shape[1:])}, {_kind(x)}, and fails on one in "
            f"{mode} ({reason(error)})"
        ) from error
    if before != (torch.get_default_dtype(), torch.get_default_device()):
        raise ConfigError(
            f"--model {name} sets torch's default type or device in its forward pass, for the whole program"
        )
    return outputs


def remember(model: nn.Module) -> Callable[[], None]:
    """What gives `model` its present weights again, and all that it keeps for itself."""
    own = OwnState(model)
    weights = [(p, p.detach().clone()) for p in model.parameters() if not nn.parameter.is_lazy(p)]

    @torch.no_grad()
    def put_back() -> None:
        own.put_back()
        for parameter, values in weights:
            parameter.copy_(values)

    return put_back


def shape_lazy_layers(name: str, model: nn.Module, x: Tensor) -> None:
    """Let layers that wait for their first input have their shapes, and so their first weights, here; `x`: such an input."""
    was_training, put_back = model.training, remember(model)
    for training in (False, True):
        if any(_lazy(model)):
            with torch.no_grad():
                run_once(name, model, x, training=training)
    put_back()
    model.train(was_training)
    if any(_lazy(model)):
        raise ConfigError(f"--model {name} has lazily shaped layers that its forward pass does not reach")


def _lazy(model: nn.Module) -> Iterator[bool]:
    return (nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers()))


def refuse_kinds(name: str, model: nn.Module) -> None:
    """ConfigError for what cannot be exchanged or replayed: see the message."""
    for path, module in model.named_modules():
        own = not isinstance(module, torch.jit.ScriptModule)
        if own and type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ConfigError(
                f"--model {name}: {path or 'it'} has get_extra_state(), and extra state is not exchanged; keep it in buffers"
            )
    state = {key: tensor for key, tensor in model.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    for key, tensor in {**dict(model.named_parameters()), **state}.items():
        if tensor.is_complex():
            raise ConfigError(f"--model {name}: '{key}' is complex, and only real numbers are exchanged")
        if tensor.is_quantized or tensor.layout is not torch.strided:
            kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise ConfigError(
                f"--model {name}: '{key}' is {kind}, and only dense tensors of real numbers are exchanged"
            )
        if tensor.device.type == "meta":
            raise ConfigError(f"--model {name}: '{key}' lies on the device meta, and so has no values")


def need_parameters(name: str, model: nn.Module) -> None:
    """ConfigError if there is nothing to train."""
    count = sum(1 for _ in model.parameters())
    if not count:
        raise ConfigError(f"--model {name} has no parameters, so there is nothing to train")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"--model {name}: all {count} parameters are frozen (requires_grad is False), so there is nothing to train"
        )


def want_dense_gradients(model: nn.Module) -> None:
    """Have no layer of `model` make sparse gradients: updates are dense, and so are masks, corrections and weight decay."""
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.sparse = False


def refuse_sparse_gradients(name: str, model: nn.Module) -> None:
    """ConfigError, after a backward pass, for a sparse gradient that no layer's `sparse` decides about."""
    for key, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            raise ConfigError(
                f"--model {name}: the gradient of its parameter {key} is sparse; leave out sparse=True there"
            )


def counts_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the buffers of whole numbers and truth values that belong to the state, by name, but for BatchNorm's
    counters of batches: in every round they count that client's own."""
    counters = {id(module.num_batches_tracked) for module in model.modules() if isinstance(module, _NormBase)}
    state = model.state_dict()
    return {
        name: buffer.clone()
        for name, buffer in model.named_buffers()
        if name in state and id(buffer) not in counters and not buffer.is_floating_point()
    }


def average_counts(model: nn.Module, names: Iterable[str]) -> None:
    """Have these buffers averaged over the clients, as running statistics are."""
    _list(model, names, AVERAGED_COUNTS)


def fix_tables(model: nn.Module) -> None:
    """Have floating-point buffers that hold infinity, as masks of attention do, stay as they are: they have no mean."""
    _list(model, [name for name, buffer in averaged(model) if not bool(buffer.isfinite().all())], FIXED_TABLES)


def _list(model: nn.Module, names: Iterable[str], attribute: str) -> None:
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        known: tuple[str, ...] = getattr(module, attribute, ())
        setattr(module, attribute, (*known, leaf))


def logits_of(model: nn.Module, inputs: Any, outputs: Any) -> Any:
    """A forward hook: of outputs that have an attribute or a key `logits`, that tensor; of a tuple or list the first; other
    outputs as they are."""
    if isinstance(outputs, tuple | list) and outputs and not hasattr(outputs, "logits"):
        first = outputs[0]
        return first if isinstance(first, Tensor) else outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    return logits if isinstance(logits, Tensor) else outputs


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
