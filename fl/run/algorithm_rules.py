"""Options that do not go with an algorithm."""

from collections.abc import Callable

from compression import make_codec
from fl.algorithms.make import parse_algorithm
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.pruning.spec import SMALLER, parse_pruning


def refuse_where(text: str, *reasons: tuple[bool, str, str]) -> None:
    """ConfigError for the first of (whether it is wrong, the option and its value, what would be right)."""
    for wrong, option, right in reasons:
        if wrong:
            raise ConfigError(f"{option} does not go with --algorithm {text}: {right}")


def refuse_usual(text: str, config: Config) -> None:
    """What no algorithm but federated averaging goes with."""
    refuse_where(
        text,
        (config.precision == "fp16", "--precision fp16", "it scales gradients and may skip steps; use bf16 or fp32"),
        (config.mode == "step", "--mode step", "it has no server; use sync"),
        (config.exchange == "hook", "--exchange hook", "the server must see every client's update; use server"),
        (
            config.engine == "deepspeed" or config.deepspeed_config is not None,
            "--engine deepspeed",
            "it has steps and gradients of its own; use ddp or accelerate",
        ),
    )


def refuse_for_sums(text: str, config: Config) -> None:
    """What does not go with a sum of decoded updates that clients and server keep in common.

    Such a sum is error feedback already: what a client could not send comes back as its next correction. Together with a
    residual it overshoots. Ten quadratics of 200 weights, all in every round: how much of the way to the optimum is left
    after 400 rounds of 5 steps.

                                scaffold    feddyn:1
    topk:0.5, none              2e-15       4e-10
    topk:0.5, residual          1e-15       2e-15
    topk:0.2, none              3e-10       9e-5
    topk:0.2, residual          diverged    0.94
    topk:0.05, none             1e-3        4e-2
    topk:0.05, residual         diverged    8e4
    """
    refuse_where(
        text,
        (config.mode != "sync", f"--mode {config.mode}", "every update must be of the round it arrives in; use sync"),
        (config.prune != "none", f"--prune {config.prune}", "every client must hold the whole model; use none"),
    )
    codec = make_codec(config.uplink)
    wrong = config.error_feedback != "none" and (codec.sparse or codec.warm)
    option = f"--error-feedback {config.error_feedback} with --uplink {config.uplink}"
    refuse_where(text, (wrong, option, "it makes up for what is not sent by itself; use --error-feedback none"))


def _refuse_fedprox(text: str, config: Config) -> None:
    """Smaller models too: their parameters are not those of the global model."""
    refuse_usual(text, config)
    smaller = config.prune != "none" and parse_pruning(config.prune).method in SMALLER
    refuse_where(
        text, (smaller, f"--prune {config.prune}", "it needs the parameters of the whole model; use magnitude")
    )


def _refuse_fednova(text: str, config: Config) -> None:
    """Also what moves clients otherwise than by SGD, and what takes their updates for models or weights."""
    refuse_usual(text, config)
    refuse_where(
        text,
        (config.optimizer != "sgd", f"--optimizer {config.optimizer}", "its norm of steps is that of sgd"),
        (
            config.mode.startswith("async"),
            f"--mode {config.mode}",
            "it sends no models that could be mixed; use sync or buffered",
        ),
        (config.prune != "none", f"--prune {config.prune}", "every client must hold the whole model; use none"),
    )


def _refuse_scaffold(text: str, config: Config) -> None:
    """Also what makes a step other than lr times the corrected gradient; weight decay counts as gradient."""
    refuse_usual(text, config)
    refuse_for_sums(text, config)
    refuse_where(
        text,
        (config.optimizer != "sgd", f"--optimizer {config.optimizer}", "steps must be those of plain sgd"),
        (config.momentum != 0, f"--momentum {config.momentum:g}", "steps must be those of plain SGD; use 0"),
        (config.clip_norm != 0, f"--clip-norm {config.clip_norm:g}", "variates would not be gradients; use 0"),
    )


def _refuse_feddyn(text: str, config: Config) -> None:
    """Also a server that does not step to where the formula says."""
    refuse_usual(text, config)
    refuse_for_sums(text, config)
    refuse_where(
        text,
        (config.server != "fedavg", f"--server {config.server}", "the new weights follow from h; use fedavg"),
        (
            config.server_lr not in (None, 1.0),
            f"--server-lr {config.server_lr}",
            "the new weights follow from h; use 1",
        ),
    )


_REFUSALS: dict[str, Callable[[str, Config], None]] = {
    "fedprox": _refuse_fedprox,
    "fednova": _refuse_fednova,
    "scaffold": _refuse_scaffold,
    "feddyn": _refuse_feddyn,
}


def check_algorithm(text: str, config: Config) -> None:
    """ConfigError for options that do not go with the algorithm; SpecError for one that cannot be read."""
    refuse = _REFUSALS.get(parse_algorithm(text).name)
    if refuse is not None:
        refuse(text, config)
