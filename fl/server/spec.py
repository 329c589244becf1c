"""The options `--server` and `--server-lr`: the optimizers of `optimizers` by name."""

from dataclasses import dataclass

from fl.common.config import ServerOptions
from fl.common.registry import Entry, Registry


@dataclass(frozen=True)
class ServerEntry(Entry):
    """`usual_lr`: the learning rate where none is given; `own_momentum`: the field of `ServerOptions` that says how much
    momentum the optimizer has, None if it has none."""

    usual_lr: float
    own_momentum: str | None = None


_IN = "fl.server.optimizers"
server_optimizers = Registry(
    "server optimizer",
    {
        "fedavg": ServerEntry(f"{_IN}:FedAvg", 1.0),
        "fedavgm": ServerEntry(f"{_IN}:FedAvgM", 1.0, "server_momentum"),
        "nesterov": ServerEntry(f"{_IN}:Nesterov", 0.7, "server_momentum"),
        "sign": ServerEntry(f"{_IN}:Sign", 0.001),
        "fedadagrad": ServerEntry(f"{_IN}:FedAdagrad", 0.01, "beta1"),
        "fedadam": ServerEntry(f"{_IN}:FedAdam", 0.01, "beta1"),
        "fedyogi": ServerEntry(f"{_IN}:FedYogi", 0.01, "beta1"),
    },
)


def server_learning_rate(options: ServerOptions) -> float:
    """`--server-lr`; without one the usual one of the optimizer."""
    if options.server_lr is not None:
        return options.server_lr
    return server_optimizers[options.server].usual_lr
