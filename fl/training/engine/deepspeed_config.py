"""How DeepSpeed's JSON file goes with the command line, and what DeepSpeed is given in the end."""

import copy
import dataclasses
import json
from collections.abc import Iterator, Set
from typing import Any

from fl.common.config import Config
from fl.common.errors import ConfigError

from ..schedule import first_learning_rate
from .deepspeed_json import AUTO, PRECISION_KEYS, DeepSpeedJson, leftover_autos
from .precision import Precision

_DTYPES = {"bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16", AUTO: AUTO}


@dataclasses.dataclass(frozen=True)
class Stated:
    """One option that the file decides.

    `option` is its field in `Config`; `key` and `written` are what the file says, `value` what that means for the
    option (None: something that the option cannot name). `implied`: the file does not say it, but it is DeepSpeed's
    default for an optimizer that the file describes.
    """

    option: str
    key: str
    written: Any
    value: Any
    implied: bool = False


def reconcile(config: Config, explicit: Set[str]) -> Config:
    """`config` with what its DeepSpeed file decides, so that records tell what really applies.

    `explicit` names the options that the user gave. Where one of them says otherwise than the file, ConfigError names
    both. What the file leaves out, or calls "auto", stays the command line's; but an optimizer that the file describes
    has DeepSpeed's defaults (lr 0.001, momentum 0, weight decay 0) for what neither the file nor the user says, and one
    that only DeepSpeed has also for an "auto" lr, since `--lr` has none for it.
    """
    if config.deepspeed_config is None:
        return config
    file = DeepSpeedJson.read(config.deepspeed_config, config.ranks_per_client)
    changes: dict[str, Any] = {}
    for stated in _stated(file, config.precision):
        own = getattr(config, stated.option)
        given = stated.option in explicit and own not in (AUTO, None)
        if stated.implied and given:
            continue
        if given and own != stated.value:
            flag = stated.option.replace("_", "-")
            raise ConfigError(
                f"--{flag} {own} contradicts {stated.key} {_text(stated.written)} in {file.name}: remove one of them"
            )
        if stated.value is not None:
            _check_range(stated, file.name)
            changes[stated.option] = stated.value
    if file.has_scheduler and config.lr_schedule != "constant":
        raise ConfigError(
            f"--lr-schedule {config.lr_schedule} contradicts the scheduler in {file.name}: remove one of them"
        )
    if file.zero_stage and config.prune != "none":
        raise ConfigError(
            f"zero_optimization.stage {file.zero_stage} in {file.name} has gradients in parts, and --prune {config.prune} "
            "masks whole ones: use stage 0"
        )
    return dataclasses.replace(config, **changes)


def engine_config(file: DeepSpeedJson, config: Config, precision: Precision) -> dict[str, Any]:
    """What `deepspeed.initialize` is given: the file with every decision of a reconciled `config` filled in.

    `precision` is the resolved one. 16-bit arithmetic is DeepSpeed's own if the file has a section for it that is not
    switched off, else torch's autocast. ConfigError if "auto" stands where no option could fill it in.
    """
    given = copy.deepcopy(file.contents)
    given.pop("train_batch_size", None)
    given["train_micro_batch_size_per_gpu"] = config.batch_size
    given["gradient_accumulation_steps"] = 1
    given["gradient_clipping"] = config.clip_norm
    sections = {key: given.pop(key, {}) for key in PRECISION_KEYS}
    if file.is_native(precision):
        older = sections["bfloat16"] if precision == "bf16" else {}
        given[precision] = older | sections[precision] | {"enabled": True}
    elif precision != "fp32":
        dtype = {"bf16": "bfloat16", "fp16": "float16"}[precision]
        given["torch_autocast"] = sections["torch_autocast"] | {"enabled": True, "dtype": dtype}
    if file.zero_stage:
        # It would take the place of torch's own in the whole process.
        given["zero_optimization"].setdefault("memory_efficient_linear", False)
    if file.optimizer_type is None or file.torch_optimizer:
        given.pop("optimizer", None)
        given.setdefault("zero_allow_untested_optimizer", True)  # ours step each coordinate by itself
    else:
        params = given["optimizer"].setdefault("params", {})
        params["lr"] = first_learning_rate(config)
        if config.weight_decay or "weight_decay" in params:
            params["weight_decay"] = config.weight_decay
        if "momentum" in params:
            params["momentum"] = config.momentum
    # By default DeepSpeed's timer makes the host wait for the device in every step.
    given.setdefault("timers", {"throughput": {"enabled": False, "synchronized": False}})
    for key in leftover_autos(given):
        if key != "data_types.keep_in_fp32_modules":
            raise ConfigError(f'{key} "auto" in {file.name}: no option stands behind this key; give a value')
    return given


def _stated(file: DeepSpeedJson, precision: str) -> Iterator[Stated]:
    """Every option that the file decides; `precision` is the command line's."""
    yield from _stated_optimizer(file)
    for key in ("train_micro_batch_size_per_gpu", "train_batch_size"):
        batch = file.contents.get(key, AUTO)
        if batch != AUTO:
            share = 1 if key.endswith("_per_gpu") else file.ranks
            yield Stated("batch_size", key, batch, file.number(key, batch, whole=True) // share)
    clip = file.contents.get("gradient_clipping", AUTO)
    if clip != AUTO:
        yield Stated("clip_norm", "gradient_clipping", clip, file.number("gradient_clipping", clip))
    yield from _stated_precision(file, precision)


def _stated_optimizer(file: DeepSpeedJson) -> Iterator[Stated]:
    kind = file.optimizer_type
    if kind is not None:
        decoupled = kind.lower() == "adam" and file.torch_optimizer == "adamw"
        written = f"{kind} (which is adamw unless adam_w_mode is false)" if decoupled else kind
        yield Stated("optimizer", "optimizer.type", written, file.torch_optimizer)
    betas = file.params.get("betas", AUTO)
    if file.torch_optimizer and betas != AUTO:
        yield Stated("adam_beta2", "optimizer.params.betas", betas, betas[1])
    defaults = {} if kind is None else {"lr": 1e-3, "weight_decay": 0.0}
    if file.torch_optimizer == "sgd":
        defaults["momentum"] = 0.0
    for option in ("lr", "momentum", "weight_decay"):
        key = f"optimizer.params.{option}"
        if option in file.params:
            if (written := file.params[option]) != AUTO:
                yield Stated(option, key, written, file.number(key, written))
                continue
            if option != "lr" or file.torch_optimizer:
                continue  # the command line's default
        if option in defaults:
            yield Stated(option, key, defaults[option], defaults[option], implied=True)


def _stated_precision(file: DeepSpeedJson, precision: str) -> Iterator[Stated]:
    switches = file.switches
    on = next((key for key, switch in switches.items() if switch is True), None)
    if on == "torch_autocast":
        written = str(file.section(on).get("dtype", AUTO))
        dtype = _DTYPES.get(written.removeprefix("torch."))
        if dtype is None:
            raise ConfigError(f"torch_autocast.dtype {written} in {file.name}: use bfloat16 or float16")
        if dtype != AUTO:
            yield Stated("precision", "torch_autocast.dtype", written, dtype)
        elif precision not in ("bf16", "fp16"):
            yield Stated("precision", "torch_autocast.enabled", True, "bf16")
    elif on is not None:
        yield Stated("precision", f"{on}.enabled", True, "fp16" if on == "fp16" else "bf16")
    elif switches and AUTO not in switches.values():
        yield Stated("precision", f"{next(iter(switches))}.enabled", False, "fp32")


def _check_range(stated: Stated, name: str) -> None:
    metadata = next(field for field in dataclasses.fields(Config) if field.name == stated.option).metadata
    low, high = metadata.get("low"), metadata.get("high")
    if (low is not None and stated.value < low) or (high is not None and stated.value > high):
        bound = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
        raise ConfigError(f"{stated.key} {_text(stated.written)} in {name} must be {bound}")


def _text(written: Any) -> str:
    return written if isinstance(written, str) else json.dumps(written)
