"""DeepSpeed's JSON file: read, and refused where it could not do what it says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compression.spec import nearest
from fl.common.errors import ConfigError
from fl.common.files import read_json

from .precision import Precision

AUTO = "auto"

# Top-level keys that DeepSpeed 0.19 reads. It ignores any other in silence, so a test compares this list with it.
_KNOWN = (
    "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps managed_gradient_accumulation "
    "optimizer scheduler gradient_clipping bf16 bfloat16 fp16 torch_autocast data_types zero_optimization "
    "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer communication_data_type "
    "seq_parallel_communication_data_type prescale_gradients gradient_predivide_factor gradient_allreduce_op "
    "disable_allgather steps_per_print wall_clock_breakdown memory_breakdown dump_state log_level timers "
    "flops_profiler comms_logger tensorboard wandb csv_monitor comet activation_checkpointing aio checkpoint "
    "datastates_ckpt dataloader_drop_last disable_python_gc vocabulary_size weight_quantization "
    "use_data_before_expert_parallelism"
)
_REFUSED = (
    "autotuning compile data_efficiency expert_parallel hybrid_engine pipeline tensor_parallel "
    "data_parallel_size sequence_parallel_size"
)
KNOWN_KEYS = frozenset(_KNOWN.split())
REFUSED_KEYS = frozenset(_REFUSED.split())
# They move weights out of the device, make groups of all ranks, or need kernels of their own; and with
# round_robin_gradients, which is for offloading, DeepSpeed's setters of fp32 weights write into the wrong places.
_REFUSED_IN_ZERO = (
    *("offload_optimizer", "offload_param", "cpu_offload", "cpu_offload_param", "zenflow", "zero_hpz_partition_size"),
    *(
        "round_robin_gradients",
        "zero_quantized_weights",
        "zero_quantized_nontrainable_weights",
        "zero_quantized_gradients",
    ),
)
PRECISION_KEYS = ("bf16", "bfloat16", "fp16", "torch_autocast")

_ADAM_EXTRAS = ("betas", "eps", "amsgrad", "torch_adam", "adam_w_mode")
_KNOWN_PARAMS = {
    "sgd": ("lr", "momentum", "weight_decay", "dampening", "nesterov"),
    "adam": ("lr", "weight_decay", *_ADAM_EXTRAS),
    "adamw": ("lr", "weight_decay", *_ADAM_EXTRAS),
}


class DeepSpeedJson:
    """The contents of a DeepSpeed JSON file; `name` is for messages. ConfigError if it cannot work here.

    `ranks`: how many train a client together.

    `params` are those of its optimizer, `contents` is everything, both as written ("auto" included).
    """

    def __init__(self, contents: dict[str, Any], name: str = "deepspeed_config.json", ranks: int = 1) -> None:
        self.contents = contents
        self.name = name
        self.ranks = ranks
        self.params: dict[str, Any] = self.section("optimizer").get("params", {})
        self._check_keys()
        self._check_zero()
        self._check_batches()
        self._check_optimizer()
        self._check_scheduler()
        self._check_precision()

    @classmethod
    def read(cls, path: str | None, ranks: int = 1) -> "DeepSpeedJson":
        """Read a file; without one, everything is left to the command line."""
        if path is None:
            return cls({}, ranks=ranks)
        try:
            contents = read_json(Path(path), object_pairs_hook=_no_duplicates)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--deepspeed-config {path}: not a readable JSON file ({error})") from None
        if not isinstance(contents, dict):
            raise ConfigError(f"--deepspeed-config {path}: the file must hold one JSON object")
        return cls(contents, Path(path).name, ranks)

    @property
    def optimizer_type(self) -> str | None:
        """Type of the optimizer as written; None if the command line chooses it."""
        kind = self.section("optimizer").get("type", AUTO)
        return None if kind == AUTO else str(kind)

    @property
    def torch_optimizer(self) -> str | None:
        """`sgd`, `adam` or `adamw` if the file asks for one of these, which torch has itself; else None.

        DeepSpeed's Adam decouples weight decay, as AdamW does, unless `adam_w_mode` is false; so it is here.
        """
        kind = (self.optimizer_type or "").lower()
        if kind == "adam" and self.params.get("adam_w_mode", True):
            return "adamw"
        return kind if kind in _KNOWN_PARAMS else None

    @property
    def optimizer_extras(self) -> dict[str, Any]:
        """Arguments of the optimizer that no option declares (betas, eps, nesterov, ...)."""
        declared = ("lr", "momentum", "weight_decay", "torch_adam", "adam_w_mode")
        return {key: value for key, value in self.params.items() if key not in declared and value != AUTO}

    @property
    def zero_stage(self) -> int:
        """0 to 3: moments, gradients too, and weights too are shared out among a client's ranks."""
        return int(self.section("zero_optimization").get("stage", 0))

    @property
    def has_scheduler(self) -> bool:
        """Whether the file schedules the learning rate step by step."""
        return "type" in self.section("scheduler")

    @property
    def switches(self) -> dict[str, bool | str]:
        """`enabled` (true, false or "auto") of every precision section that the file has."""
        return {key: self.section(key).get("enabled", False) for key in PRECISION_KEYS if key in self.contents}

    def is_native(self, precision: Precision) -> bool:
        """Whether DeepSpeed's own 16-bit mode (16-bit model, fp32 masters) computes in `precision`."""
        names = {"bf16": ("bf16", "bfloat16"), "fp16": ("fp16",), "fp32": ()}[precision]
        return any(self.switches.get(name, False) in (True, AUTO) for name in names)

    def section(self, key: str) -> dict[str, Any]:
        """The object under a top-level key; empty if there is none."""
        section = self.contents.get(key, {})
        if not isinstance(section, dict):
            raise ConfigError(f"'{key}' in {self.name} must be an object, not {section!r}")
        return section

    def number(self, key: str, value: Any, *, whole: bool = False) -> Any:
        """`value`, which stands under `key`, once it is known to be a number."""
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f'{key} in {self.name} must be {kind} or "auto", not {json.dumps(value)}')
        return value

    def _check_keys(self) -> None:
        for key in self.contents:
            if key in REFUSED_KEYS:
                raise ConfigError(
                    f"'{key}' in {self.name}: each client trains alone in this program's own loop; remove the key"
                )
            if key not in KNOWN_KEYS:
                tail = nearest(key, KNOWN_KEYS)
                tail = tail if "did you mean" in tail else "; remove it"
                raise ConfigError(f"'{key}' in {self.name} is no key of DeepSpeed{tail}")
        if self.contents.get("steps_per_print") not in (None, AUTO):
            self.number("steps_per_print", self.contents["steps_per_print"], whole=True)

    def _check_zero(self) -> None:
        zero = self.section("zero_optimization")
        stage = zero.get("stage", 0)
        if stage not in range(4) or isinstance(stage, bool):
            raise ConfigError(f"zero_optimization.stage {json.dumps(stage)} in {self.name} must be 0, 1, 2 or 3")
        if stage and self.ranks == 1:
            raise ConfigError(
                f"zero_optimization.stage {stage} in {self.name} shares out a client among its ranks, and it has one: use "
                "stage 0, or --ranks-per-client of at least 2"
            )
        for key in _REFUSED_IN_ZERO:
            if zero.get(key) not in (None, False, {"device": "none"}):
                raise ConfigError(f"zero_optimization.{key} in {self.name} is not supported here; remove the key")

    def _check_batches(self) -> None:
        steps = self.contents.get("gradient_accumulation_steps", 1)
        if steps not in (1, AUTO):
            raise ConfigError(
                f"gradient_accumulation_steps {steps} in {self.name}: every local step takes one batch; use 1"
            )
        micro, whole = (self.contents.get(k, AUTO) for k in ("train_micro_batch_size_per_gpu", "train_batch_size"))
        if whole != AUTO and self.number("train_batch_size", whole, whole=True) % self.ranks:
            raise ConfigError(
                f"train_batch_size {whole} in {self.name} is shared by the ranks of a client, so it must be a multiple of "
                f"--ranks-per-client {self.ranks}"
            )
        if AUTO not in (micro, whole) and micro * self.ranks != whole:
            raise ConfigError(
                f"train_batch_size {whole} in {self.name} must equal train_micro_batch_size_per_gpu {micro}, times "
                f"--ranks-per-client {self.ranks}"
            )

        if self.ranks > 1 and (op := self.contents.get("gradient_allreduce_op", "mean")) != "mean":
            raise ConfigError(
                f"gradient_allreduce_op {json.dumps(op)} in {self.name}: a step goes by the mean over a client's batch; "
                "remove the key"
            )

    def _check_optimizer(self) -> None:
        if not isinstance(self.params, dict):
            raise ConfigError(f"optimizer.params in {self.name} must be an object, not {self.params!r}")
        self._check_type("optimizer")
        if self.torch_optimizer:
            known = _KNOWN_PARAMS[self.torch_optimizer]
            for key in self.params:
                if key not in known:
                    raise ConfigError(
                        f"optimizer.params.{key} in {self.name}: unknown to {self.optimizer_type}{nearest(key, known)}"
                    )
            for key, value in self.optimizer_extras.items():
                self._check_extra(f"optimizer.params.{key}", value)
        elif self.optimizer_type is None and (extras := self.optimizer_extras):
            raise ConfigError(f"optimizer.params.{next(iter(extras))} in {self.name} needs an optimizer.type")

    def _check_extra(self, key: str, value: Any) -> None:
        if key.endswith("betas"):
            if not isinstance(value, list) or len(value) != 2:
                raise ConfigError(f"{key} in {self.name} must be a list of two numbers, not {json.dumps(value)}")
            for beta in value:
                self.number(key, beta)
        elif key.endswith(("eps", "dampening")):
            self.number(key, value)
        elif not isinstance(value, bool):
            raise ConfigError(f"{key} in {self.name} must be true or false, not {json.dumps(value)}")

    def _check_scheduler(self) -> None:
        section = self.section("scheduler")
        self._check_type("scheduler")
        params = section.get("params", {})
        if not isinstance(params, dict):
            raise ConfigError(f"scheduler.params in {self.name} must be an object, not {params!r}")
        if params and not self.has_scheduler:
            raise ConfigError(f"scheduler.params in {self.name} needs a scheduler.type")
        if section.get("type") == "ReduceLROnPlateau":
            raise ConfigError(
                f"scheduler.type ReduceLROnPlateau in {self.name} goes by a score, and local steps have none; use one that "
                "goes by steps"
            )

    def _check_type(self, section: str) -> None:
        kind = self.section(section).get("type", AUTO)
        if not isinstance(kind, str):
            raise ConfigError(f"{section}.type in {self.name} must be a name, not {json.dumps(kind)}")

    def _check_precision(self) -> None:
        for key, switch in self.switches.items():
            if switch not in (True, False, AUTO):
                raise ConfigError(f'{key}.enabled in {self.name} must be true, false or "auto", not {switch!r}')
        on = [key for key, switch in self.switches.items() if switch is True]
        if len(on) > 1:
            raise ConfigError(f"{on[0]}.enabled and {on[1]}.enabled are both true in {self.name}: keep one of them")


def leftover_autos(value: Any, path: str = "") -> Iterator[str]:
    """Every dotted key under which "auto" still stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leftover_autos(item, f"{path}.{key}" if path else str(key))
    elif value == AUTO:
        yield path


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the key '{key}' stands twice")
        seen[key] = value
    return seen
