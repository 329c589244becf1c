"""Options that do not go with an algorithm."""

from compression import make_codec
from fl.common.config import Config
from fl.common.errors import ConfigError


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
