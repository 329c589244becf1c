"""Server optimizers: what rank 0 does with the mean pseudo-gradient of a round.

Reddi et al. 2020, "Adaptive Federated Optimization", Algorithm 2; FedAvgM is Hsu et al. 2019, "Measuring the
Effects of Non-Identical Data Distribution for Federated Visual Classification"; Nesterov is the outer step of Douillard et
al. 2023, "DiLoCo"; Sign that of Peng et al. 2024, "DeMo". Each is an ordinary
`torch.optim.Optimizer`: the parameters are the global model (usually one flat fp32 vector, but any list of
floating tensors works) and `p.grad` is the sample-weighted mean update D, global minus local. The paper
writes Delta for -D and *adds* the step; the two signs cancel, so here every step is `p -= lr * ...`.

As published there is no bias correction, and tau stands beside the square root, `sqrt(v) + tau`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from fl.common.config import ServerOptions
from fl.common.errors import ConfigError

from .spec import server_learning_rate, server_optimizers


class ServerOptimizer(torch.optim.Optimizer, ABC):
    """Common part of all: the loop over parameters, the checks, and one scratch buffer.

    A step moves parameters in place and replaces their moments, which are never written over: whoever holds `state` or
    `state_dict()` can go back to it, or write it to a file while the next step is taken.
    ConfigError for a learning rate, decay or tau outside its range.
    """

    options: ClassVar[Mapping[str, str]] = {}
    """The constructor's arguments besides lr, and the fields of `ServerOptions` that they come from."""
    moments: ClassVar[tuple[str, ...]] = ()
    """What `state` has of each parameter, in its shape."""

    def __init__(self, params: Iterable[Tensor], **defaults: float) -> None:
        self._buffer: Tensor | None = None  # kept, since to allocate it takes longer than what is done in it
        _require(defaults["lr"] >= 0, "server_lr", defaults["lr"], "0 or more")
        for name, text in (("momentum", "server_momentum"), ("beta1", "beta1"), ("beta2", "beta2")):
            if name in defaults:
                _require(0 <= defaults[name] < 1, text, defaults[name], "at least 0 and below 1")
        if "tau" in defaults:
            _require(defaults["tau"] > 0, "tau", defaults["tau"], "above 0")
        super().__init__(params, defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._buffer = None  # a copied optimizer must not lack it, nor share it

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient, in place; return what `closure`, if any, returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    before = self.state[p] or {name: torch.full_like(p, self.initial(name)) for name in self.moments}
                    self.state[p] = self._update(p, p.grad, before, group)
        return loss

    def initial(self, moment: str) -> float:
        """What every coordinate of a moment, named as in `state`, is at first."""
        return 0.0

    def reset(self, p: Tensor, outside: Tensor) -> None:
        """Forget the moments of `p` where `outside`, bool of its shape: there they are as they were at first."""
        moments = self.state[p].items()
        self.state[p] = {name: moment.masked_fill(outside, self.initial(name)) for name, moment in moments}

    @abstractmethod
    def _update(self, p: Tensor, d: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> dict[str, Tensor]:
        """One step of `p`, in place; its pseudo-gradient `d` and its moments, in `state`, have its shape. Returns the new
        moments."""

    def _scratch(self, p: Tensor) -> Tensor:
        """Uninitialised memory shaped like `p`, valid until the next call."""
        buffer = self._buffer
        fits = buffer is not None and (buffer.dtype, buffer.device) == (p.dtype, p.device)
        if buffer is None or not fits or buffer.numel() < p.numel():
            buffer = self._buffer = torch.empty(p.numel(), dtype=p.dtype, device=p.device)
        return buffer[: p.numel()].view(p.shape)


class FedAvg(ServerOptimizer):
    """p -= lr * D; with lr = 1 the new model is the weighted mean of the clients' (McMahan et al. 2017)."""

    def __init__(self, params: Iterable[Tensor], *, lr: float = server_optimizers["fedavg"].usual_lr) -> None:
        super().__init__(params, lr=lr)

    def _update(self, p: Tensor, d: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> dict[str, Tensor]:
        p.sub_(d, alpha=group["lr"])
        return state


class FedAvgM(ServerOptimizer):
    """Server momentum (Hsu et al. 2019): m = momentum * m + D, then p -= lr * m."""

    options = MappingProxyType({"momentum": "server_momentum"})
    moments = ("m",)

    def __init__(
        self, params: Iterable[Tensor], *, lr: float = server_optimizers["fedavgm"].usual_lr, momentum: float = 0.9
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum)

    def _update(self, p: Tensor, d: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> dict[str, Tensor]:
        m = torch.mul(state["m"], group["momentum"]).add_(d)
        p.sub_(m, alpha=group["lr"])
        return {"m": m}


class Nesterov(FedAvgM):
    """Nesterov momentum (DiLoCo): m = momentum * m + D, then p -= lr * (D + momentum * m), as torch's SGD has it."""

    def __init__(
        self, params: Iterable[Tensor], *, lr: float = server_optimizers["nesterov"].usual_lr, momentum: float = 0.9
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum)

    def _update(self, p: Tensor, d: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> dict[str, Tensor]:
        state = super()._update(p, d, state, {**group, "lr": group["lr"] * group["momentum"]})
        p.sub_(d, alpha=group["lr"])
        return state


class Sign(ServerOptimizer):
    """p -= lr * sign(D): every coordinate that has an update moves by lr (DeMo, Algorithm 1)."""

    def __init__(self, params: Iterable[Tensor], *, lr: float = server_optimizers["sign"].usual_lr) -> None:
        super().__init__(params, lr=lr)

    def _update(self, p: Tensor, d: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> dict[str, Tensor]:
        p.sub_(torch.sign(d, out=self._scratch(p)), alpha=group["lr"])
        return state


class _Adaptive(ServerOptimizer):
    """Algorithm 2 of Reddi et al.; the subclasses differ in how the second moment v grows.

    m = beta1 * m + (1 - beta1) * D, then v, then p -= lr * m / (sqrt(v) + tau); at first m = 0 and v = tau^2.
    """

    options = MappingProxyType({"beta1": "beta1", "beta2": "beta2", "tau": "tau"})
    moments = ("m", "v")

    def initial(self, moment: str) -> float:
        tau: float = self.param_groups[0]["tau"]
        return tau * tau if moment == "v" else 0.0

    def _update(self, p: Tensor, d: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> dict[str, Tensor]:
        m = torch.lerp(state["m"], d, 1 - group["beta1"])
        v = self._grown(state["v"], d, group)
        root = torch.sqrt(v, out=self._scratch(p))
        p.addcdiv_(m, root.add_(group["tau"]), value=-group["lr"])
        return {"m": m, "v": v}

    @abstractmethod
    def _grown(self, v: Tensor, d: Tensor, group: dict[str, Any]) -> Tensor:
        """The second moment with D in it."""


class FedAdagrad(_Adaptive):
    """v += D^2."""

    options = MappingProxyType({"beta1": "beta1", "tau": "tau"})

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = server_optimizers["fedadagrad"].usual_lr,
        beta1: float = 0.9,
        tau: float = 1e-3,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, tau=tau)

    def _grown(self, v: Tensor, d: Tensor, group: dict[str, Any]) -> Tensor:
        return torch.addcmul(v, d, d)


class FedAdam(_Adaptive):
    """v = beta2 * v + (1 - beta2) * D^2."""

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = server_optimizers["fedadam"].usual_lr,
        beta1: float = 0.9,
        beta2: float = 0.99,
        tau: float = 1e-3,
    ) -> None:
        super().__init__(params, lr=lr, beta1=beta1, beta2=beta2, tau=tau)

    def _grown(self, v: Tensor, d: Tensor, group: dict[str, Any]) -> Tensor:
        return torch.mul(v, group["beta2"]).addcmul_(d, d, value=1 - group["beta2"])


class FedYogi(FedAdam):
    """v -= (1 - beta2) * D^2 * sign(v - D^2): v moves by a bounded amount, so it forgets slowly."""

    def _grown(self, v: Tensor, d: Tensor, group: dict[str, Any]) -> Tensor:
        sign = torch.addcmul(v, d, d, value=-1, out=self._scratch(v)).sign_()
        return torch.addcmul(v, sign.mul_(d), d, value=group["beta2"] - 1)


def make_server_optimizer(options: ServerOptions, params: Iterable[Tensor]) -> ServerOptimizer:
    """The optimizer that `options` names, over `params`.

    SpecError for an unknown name, ConfigError for a value outside its range.
    """
    kind: type[ServerOptimizer] = server_optimizers[options.server].load()
    own = {argument: getattr(options, name) for argument, name in kind.options.items()}
    return kind(params, lr=server_learning_rate(options), **own)


def _require(holds: bool, name: str, value: float, right: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value:g}; it must be {right}")
