"""Every option, declared once.

The command line, the YAML file, the environment and the help text are all made from these fields (see `fl.run.cli`).
A component takes the narrowest group it needs (`TrainOptions`, say); `Config` is all of them together.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from compression.spec import FUNCTION, nearest

from .errors import ConfigError
from .files import read_json

_WHOLE = "(.*)"
_CSV_FILE = r"\s*(.*?\.csv)\s*(?:,\s*(?:compute\s*=|sparse).*)?"
_OWN_DATA = "(?:csv|imagefolder|text):([^,]*)(?:,.*)?"
_OWN_LOADER = f"(?!(?:csv|imagefolder|text):){FUNCTION.pattern}"


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    path: str | None = None,
    code: str | None = None,
) -> Any:
    """A dataclass field with its help text, for numbers its inclusive range, for paths where in the value they stand (the
    first group of a regular expression), and which values (a regular expression) can execute code or write files."""
    metadata = {"help": text, "low": low, "high": high, "path": path, "code": code}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which data, and how they are shared out among the clients."""

    dataset: str = option(
        "cifar10",
        "imagefolder:PATH, csv:PATH,target=COLUMN, text:PATH, package.module:function, or a name",
        path=_OWN_DATA,
        code=_OWN_LOADER,
    )
    data_dir: str = option(
        "data", "folder of all data sets; each is looked for in it and in DIR/<dataset>", path=_WHOLE
    )
    cache_dir: str | None = option(
        None, "folder for large tables and pictures as they were decoded (default: beside them)", path=_WHOLE
    )
    download: bool = option(True, "fetch a missing data set where its source allows it")
    context: int | None = option(
        None, "tokens of a sample of text, each predicted from those before it (default: what the model takes)", low=1
    )
    limit_train: int | None = option(None, "use only this many training samples (drawn by seed)", low=1)
    limit_test: int | None = option(None, "test on only this many samples (drawn by seed)", low=1)
    partition: str = option(
        "iid", "iid, contiguous, dirichlet:ALPHA, shards:K, labels:K, quantity:SIGMA, natural or sites"
    )
    clients: int | None = option(
        None,
        "number of clients (default: one per rank, or per --ranks-per-client of them; 4 if that is one; natural: one per "
        "group of the data)",
        low=1,
    )
    clients_per_round: int | None = option(
        None, "clients sampled each round (default: all); buffered and async: clients at work at once", low=1
    )
    min_clients: int | None = option(
        None, "clients of a round whose updates must count; it goes on without others that fail (default: all)", low=1
    )
    sampling: str = option(
        "uniform",
        "who takes part: uniform, samples, power:D, diurnal:PERIOD[s],SHARE, or a CSV file of who is up when",
        path=_CSV_FILE,
    )
    val_fraction: float = option(
        0.1, "fraction of the training samples held out for decisions, unless the data set has its own", low=0, high=0.5
    )
    client_eval: float = option(
        0.0, "fraction of each client's samples held out to judge the global model on (0: none)", low=0, high=0.5
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network, and where its first weights come from."""

    model: str = option("resnet18", "package.module:function, or a name", code=FUNCTION.pattern)
    stem: Literal["cifar", "imagenet"] = option("cifar", "first layers of a ResNet: 3x3 for small images, or 7x7")
    norm: Literal["batch", "group"] = option("batch", "normalisation layers of a ResNet")
    init: str | None = option(None, "safetensors file to start from instead of random weights", path=_WHOLE)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a client trains locally."""

    rounds: int = option(10, "number of rounds", low=1)
    finetune_rounds: int = option(0, "rounds after --rounds, under the final mask", low=0)
    finetune_lr: float = option(0.1, "learning rate of these rounds, as a fraction of --lr", low=0)
    local_epochs: int | None = option(None, "passes over the client's data a round (default 1)", low=1)
    local_steps: int | None = option(None, "optimizer steps a round, instead of --local-epochs", low=1)
    batch_size: int = option(64, "samples of a batch on each rank that trains a client", low=1)
    accumulate: int = option(1, "batches a step, one after another, whose gradients are averaged", low=1)
    ranks_per_client: int = option(1, "ranks that train a client together, as one machine with so many devices", low=1)
    optimizer: Literal["sgd", "adam", "adamw"] = option("sgd", "local optimizer")
    local_state: Literal["fresh", "keep"] = option(
        "fresh", "local optimizer: begun anew every round (fresh), or its moments stay with the client (keep)"
    )
    lr: float | None = option(None, "local learning rate (default 0.05 for sgd, 0.001 for adam and adamw)", low=0)
    momentum: float = option(0.9, "momentum of local SGD", low=0, high=0.9999)
    adam_beta2: float = option(0.999, "second-moment decay of local adam and adamw", low=0, high=0.99999)
    weight_decay: float = option(5e-4, "weight decay of the local optimizer", low=0)
    clip_norm: float = option(0.0, "clip the local gradient to this norm (0: off)", low=0)
    lr_schedule: str = option(
        "constant",
        "learning rate by round: constant, cosine, or step:EVERY,FACTOR; or by step: constant:warmup=STEPS, or "
        "cosine:warmup=STEPS,floor=FRACTION",
    )
    algorithm: str = option("fedavg", "what clients and server do about unequal clients")
    augment: str = option("auto", "none, or stages of crop:PIXELS and flip (crop:4+flip); auto: the data set's own")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "arithmetic of local training (auto: bf16 where the device has it, else fp32)"
    )
    clients_at_once: int = option(
        1, "clients of a rank that train at once, if the model is of linear layers and activations", low=1
    )
    qat: int = option(0, "quantisation-aware training with so many bits, 4 to 8 (0: off)", low=0, high=8)

    @property
    def client_batch(self) -> int:
        """Samples of a client's step, on all of its ranks together."""
        return self.batch_size * self.ranks_per_client * self.accumulate

    def pieces(self, samples: int) -> int:
        """In how many pieces, as equal as can be, so many `samples` of a step on a rank go through the model."""
        return 1 if self.accumulate == 1 else -(-samples // self.batch_size)


@dataclass(frozen=True, kw_only=True)
class ExchangeOptions:
    """How updates travel."""

    mode: str = option(
        "sync",
        "federated rounds (sync), rounds in virtual time, or a gradient exchange every step, as DDP does (step)",
    )
    staleness: str = option("constant", "weight of late updates: constant, poly:A or hinge:A,B (buffered, async)")
    exchange: Literal["server", "hook"] = option("server", "through payloads to rank 0, or a DDP communication hook")
    hook: str | None = option(None, "any DDP hook for --exchange hook, as package.module:function")
    uplink: str = option(
        "topk:0.01",
        "codec of what clients send: [SELECTOR+]FORMAT[+zstd] or package.module:function, see docs/compression.md",
        code=FUNCTION.pattern,
    )
    uplink_warmup: int = option(0, "rounds over which the kept fraction of --uplink falls from a quarter", low=0)
    uplink_shares: str = option(
        "none", "fraction of --uplink's coordinates that each client sends: none, equal_time:FLOOR or online:FLOOR"
    )
    downlink: str = option("none", "codec of what the server sends", code=FUNCTION.pattern)
    fragments: int = option(1, "parts of the model, of which each round exchanges one (Streaming DiLoCo)", low=1)
    merge: float = option(
        0.0,
        "weight of a client's own parameters where exchanged ones come back to it (--fragments)",
        low=0,
        high=0.9999,
    )
    overlap: bool = option(False, "a fragment comes back a round later, and travels while clients train")
    error_feedback: str = option(
        "residual",
        "what becomes of what a codec dropped: none, residual[:DECAY] (it is added next time) or dgc:MOMENTUM",
    )


@dataclass(frozen=True, kw_only=True)
class PruneOptions:
    """Which weights are pruned, when, and by whom; or what each client holds of the model."""

    prune: str = option(
        "none",
        "none, METHOD:SPARSITY, or width:FRACTION; see docs/pruning.md; methods",
    )
    prune_schedule: str = option(
        "constant", "constant, cubic:BEGIN,END,EVERY, linear:..., iterative:... (rounds), or oneshot:ROUND"
    )
    capabilities: str = option(
        "none",
        "fraction of the model that each client can hold: uniform:LOW,HIGH, groups:1.0x2+0.3x4, "
        "equal_time:FLOOR, online:FLOOR, or a CSV file",
        path=_CSV_FILE,
    )
    recover: str = option(
        "none", "when smaller clients hold more: plateau:PATIENCE[,DELTA] (validation), or schedule:BEGIN,EVERY"
    )


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """The server on rank 0: its optimizer, and what it makes of updates."""

    server: str = option("fedavg", "server optimizer")
    server_lr: float | None = option(None, "server learning rate (default: the optimizer's usual one)", low=0)
    server_momentum: float = option(0.9, "momentum of fedavgm and nesterov", low=0, high=0.9999)
    beta1: float = option(0.9, "first-moment decay of fedadagrad, fedadam and fedyogi", low=0, high=0.9999)
    beta2: float = option(0.99, "second-moment decay of fedadam and fedyogi", low=0, high=0.99999)
    server_shards: int = option(1, "ranks that share the server's sums and moments, each a range of coordinates", low=1)
    tau: float = option(1e-3, "adaptivity floor: v starts at tau^2, the step divides by sqrt(v) + tau", low=1e-12)
    aggregate: str = option("mean", "what the updates of a round come to")
    dp: str = option(
        "none",
        "differential privacy of whole clients: none, or clip:C,noise=Z,delta=D[,adaptive=Q], see docs/privacy.md",
    )


@dataclass(frozen=True, kw_only=True)
class ClockOptions:
    """How fast clients compute and send, in virtual time."""

    profiles: str = option(
        "none",
        "none, a NAME, mix:good=0.5+2g=0.5, pr-fl, or a CSV file, and ,compute=LOW..HIGH or ,sparse; see docs/clock.md",
        path=_CSV_FILE,
    )
    deadline: float = option(
        0.0, "seconds, virtual ones but across sites, after which a round ends (0: when all have arrived)", low=0
    )
    over_select: float = option(1.0, "start so many times --clients-per-round, and take the first to arrive", low=1)
    late: Literal["drop", "carry"] = option("drop", "what becomes of an update that is late for its round")
    lost: float = option(0.0, "probability that a client that starts never comes back", low=0, high=0.99)
    timeout: float = option(0.0, "virtual seconds after which the server gives up on a client (0: never)", low=0)
    server_up_limit: float = option(0.0, "bytes/s that the server receives from all clients together (0: any)", low=0)
    server_down_limit: float = option(0.0, "bytes/s that the server sends to all clients together (0: any)", low=0)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how the program runs, and what it leaves behind."""

    seed: int = option(0, "seed of every random choice", low=0)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to train")
    threads: int | None = option(None, "CPU threads per rank (default: cores / local ranks)", low=1, high=1024)
    engine: Literal["auto", "ddp", "accelerate", "deepspeed", "fsdp"] = option("auto", "what runs the local steps")
    deepspeed_config: str | None = option(None, "DeepSpeed's JSON file (--engine deepspeed)", path=_WHOLE, code=_WHOLE)
    output_dir: str = option("outputFolder", "folder of all run folders", path=_WHOLE)
    run_name: str | None = option(None, "name of the run folder (default: made from the options and the time)")
    resume: str | None = option(
        None, "run folder to continue, or auto: the one named by --run-name if it has a checkpoint", path=_WHOLE
    )
    hang_timeout: float = option(
        300.0, "seconds without any progress after which ranks that wait for one another give up", low=1
    )
    eval_every: int = option(1, "evaluate every this many rounds", low=1)
    checkpoint_every: int = option(1, "checkpoint every this many rounds (0: never)", low=0)
    state_budget: str = option(
        "auto",
        "memory of a machine for what clients keep between rounds, such as 6GB; the rest waits on disk "
        "(auto: a quarter of what is free)",
    )
    state_dtype: Literal["fp32", "bf16"] = option("fp32", "numbers that clients keep between rounds")
    quiet: bool = option(False, "no progress bar and no table")
    profile: bool = option(
        False, "seconds of each phase of a round, in phases.csv, and a trace of two rounds by PyTorch's profiler"
    )
    figures: bool = option(False, "each figure as a 300-dpi PNG beside report.html; also: leanfed report RUN --figures")
    tensorboard: bool = option(False, "TensorBoard event files in the run folder, a scalar for every column and round")
    track: str = option(
        "none", "trackers to tell of every round, joined by +: wandb, mlflow, ...; see docs/tracking.md"
    )


@dataclass(frozen=True, kw_only=True)
class Config(
    DataOptions, ModelOptions, TrainOptions, PruneOptions, ExchangeOptions, ServerOptions, ClockOptions, RunOptions
):
    """All options of a run."""

    @property
    def all_rounds(self) -> int:
        """Rounds of the run, those of fine-tuning included."""
        return self.rounds + self.finetune_rounds


GROUPS = (
    DataOptions,
    ModelOptions,
    TrainOptions,
    PruneOptions,
    ExchangeOptions,
    ServerOptions,
    ClockOptions,
    RunOptions,
)

MOVED = {
    "buffer": "--mode: write --mode buffered:5,latest",
    "part_mean": "--prune: write --prune magnitude:0.5,mean=cohort",
    "prune_rewind": "--prune: write --prune magnitude:0.9,rewind",
    "cost_model": "--profiles: write --profiles poor_3g,sparse",
}
"""Former options that are now said inside another one."""


def no_such_option(word: str, known: Iterable[str]) -> str:
    """One sentence about an option that does not exist: where it has gone, or which of the `known` ones is nearest."""
    word = word.partition("=")[0]
    name = word.removeprefix("--").removeprefix("no-").replace("-", "_")
    if name in MOVED:
        return f"--{name.replace('_', '-')} is now part of {MOVED[name]}"
    return f"there is no option '{word}'{nearest(word, known)}"


def check_types(config: Config) -> None:
    """ConfigError for a value of another type than its option's, which a Python program or a file may have."""
    for name, kind in get_type_hints(Config).items():
        value, option = getattr(config, name), f"--{name.replace('_', '-')}"
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            if value not in choices:
                hint = nearest(str(value), choices)
                raise ConfigError(
                    f"{option} {value} must be one of {', '.join(choices)}{hint if 'mean' in hint else ''}"
                )
            continue
        kinds = get_args(kind) or (kind,)
        fits = isinstance(value, (*kinds, int) if float in kinds else kinds)
        if not fits or (isinstance(value, bool) and bool not in kinds):  # a bool is an int to Python
            words = " or ".join(each.__name__ for each in kinds if each is not type(None))
            raise ConfigError(f"{option} {value!r} must be of type {words}")


def stored_options(folder: Path) -> Config:
    """The options of the run in `folder`, from its config.json; ConfigError if there are none.

    They are whatever somebody wrote into that file: see `refuse_stored_code`.
    """
    path = folder / "config.json"
    try:
        values = read_json(path)
        moved = [no_such_option(name, ()) for name in values if name in MOVED]
        config = None if moved else Config(**values)
    except OSError as error:
        raise ConfigError(f"{folder} is no run folder: cannot read {path} ({error.strerror})") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} does not hold the options of a run ({error})") from None
    if config is None:
        raise ConfigError(f"{path} is of an earlier version: {moved[0]}")
    try:
        check_types(config)
    except ConfigError as error:
        raise ConfigError(f"{path} does not hold the options of a run ({error})") from None
    return config


def code_options(config: Config) -> dict[str, str]:
    """The options, as flags, whose values can execute code or write files."""
    found = {}
    for field in dataclasses.fields(config):
        value, pattern = getattr(config, field.name), field.metadata["code"]
        if pattern and value and re.fullmatch(pattern, value):
            found[f"--{field.name.replace('_', '-')}"] = value
    return found


def refuse_stored_code(folder: Path, stored: Config, given: Mapping[str, Any]) -> None:
    """ConfigError if an option of the run in `folder` can execute code or write files, and is not among the options `given`
    anew with the same value."""
    for flag, value in code_options(stored).items():
        if given.get(flag[2:].replace("-", "_")) != value:
            raise ConfigError(
                f"{folder / 'config.json'} names {flag} {value}, which can execute code or write files: say {flag} {value} "
                "again if you trust it"
            )
