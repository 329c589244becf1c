"""Puts a run together: data, model, engine, all from the options."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fl.algorithms.make import make_algorithm
from fl.common.config import Config
from fl.common.errors import ConfigError, DataError
from fl.common.generators import seeded
from fl.common.mode import mode_of
from fl.common.ranks import Ranks
from fl.data import Dataset, Schema, Split, is_by_site, load_dataset
from fl.data.augment import Augment
from fl.data.batches import batch_sizes
from fl.data.normalise import Normaliser, make_normaliser
from fl.data.partition import BY_LABEL, check_partition
from fl.data.partition.share import partition
from fl.data.schema import schema_of
from fl.data.split import divide
from fl.models import build_model, is_own
from fl.models.own_state import OwnState
from fl.models.quantise import fake_quantise
from fl.models.state import ModelState
from fl.rounds.sampling import counts_alike
from fl.training.engine import choose_engine, make_engine
from fl.training.engine.base import LocalEngine
from fl.training.engine.precision import autocast_dtype, resolve_precision
from fl.training.evaluate import hold_out
from fl.training.local_plan import LocalPlan
from fl.training.tasks import Task, make_task
from fl.training.together import reason_for_one
from fl.training.worker import Worker

from .checks import with_clients


@dataclass(frozen=True)
class Site:
    """Where a client has data of its own, which are read as the server's `schema` says."""

    client: int
    schema: Schema


AskSites = Callable[[int, Schema], list[int]]
"""Tells the sites of so many clients what the server's data look like; how many samples each has. DataError, or ConfigError,
for a site that cannot take part."""


def assemble(config: Config, ranks: Ranks, sites: AskSites | Site | None = None) -> Worker:
    """Load the data, share them out, build the model and the engine; `config` is a resolved one. `sites`: with
    `--partition sites`, which one this is, or on the server how to ask them.

    Raises DataError for missing data and ConfigError for data and options that do not fit together.
    """
    by_site = is_by_site(config)
    if by_site and sites is None:
        raise ConfigError(
            f"--partition {config.partition} is for clients at sites of their own (leanfed deploy): use natural"
        )
    site = sites if isinstance(sites, Site) else None
    schema = None if site is None else site.schema
    data = load_dataset(config, seed=config.seed, quiet=config.quiet or not ranks.is_server, schema=schema)
    groups = None if data.groups is None else data.groups.numpy()
    if groups is not None:
        config = with_clients(config, int(groups.max()) + 1)
    task = make_task(data)
    train_at, validation = divide(data, config.val_fraction, config.seed)
    rows = torch.from_numpy(train_at)
    train = data.train.to(ranks.device)  # all of it, which the ranks of a machine may share; `take` would copy
    parts = [rows[part] for part in _share_out(data, train_at, config, site)]
    parts, held = hold_out(parts, config.client_eval, config.seed)
    augment = data.augment if config.augment == "auto" else config.augment
    Augment(augment).check_shape(data.sample_shape)
    normalise = Normaliser.of(schema.mean, schema.std) if schema else make_normaliser(train.x, rows)
    model = build_model(
        config,
        classes=data.classes,
        in_channels=data.channels,
        image_size=data.image_size,
        sample_shape=data.sample_shape,
        seed=config.seed,
        tokens=data.is_text,
    )
    _try_model(config, model, task, data, normalise, ranks.device)
    _check_lone_samples(config, model, parts, normalise(data.train.x[:1]))
    if config.qat:
        fake_quantise(model, config.qat)
    engine = make_engine(config, model, ranks, task.loss)
    engine_name = choose_engine(config, ranks.launcher)
    state = ModelState(engine.model, ranks.device)
    if config.dp != "none" and state.buffers.numel():
        raise ConfigError(
            f"--dp {config.dp}: --model {config.model} has running statistics (BatchNorm), which get no noise: take one "
            "without (--norm group)"
        )
    sizes = [len(part) for part in parts]
    if by_site and site is None:
        assert callable(sites)
        schema = schema_of(data, normalise)
        sizes = _sizes_at_sites(sites(config.clients or 1, schema), config)
    algorithm = make_algorithm(
        config.algorithm, state.layout, ranks.device, clients=config.clients or 1, momentum=config.momentum
    )
    return Worker(
        config=dataclasses.replace(config, precision=engine.precision, engine=engine_name, augment=augment),
        ranks=ranks,
        train=train,
        validation=validation.to(ranks.device),
        test=data.test.to(ranks.device),
        rows=rows,
        parts=parts,
        held=held,
        sizes=sizes,
        task=task,
        classes=0 if data.is_text else data.classes,
        augment=Augment(augment),
        normalise=normalise,
        engine=engine,
        state=state,
        local_plan=LocalPlan(algorithm, config, alike=counts_alike(config)),
        schema=schema,
        notes=(*data.notes, _sizes(data, rows, validation, held, sizes), *_one_at_a_time(config, engine)),
        left_out=data.left_out,
    )


def _try_model(
    config: Config, model: nn.Module, task: Task, data: Dataset, normalise: Normaliser, device: torch.device
) -> None:
    """ConfigError if the model does not fit the data, or cannot be trained as these options say."""
    is_synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if is_synchronised and mode_of(config).has_server:
        raise ConfigError(
            f"--model {config.model} has SyncBatchNorm, which joins the batches of all ranks, and in --mode {config.mode} "
            "each client trains alone: take BatchNorm, whose statistics are averaged"
        )
    x, y = normalise(data.train.x[:2]), data.train.y[:2]
    # The built-in networks are known to train; and a lone sample is looked at next, SyncBatchNorm works on GPUs alone.
    trains = is_own(config.model) and len(y) > 1 and not is_synchronised
    dtype = autocast_dtype(resolve_precision(config.precision, device)) if device.type == "cpu" else torch.float32
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        task.check_model(config.model, model, x, y if trains else None)


def _check_lone_samples(config: Config, model: nn.Module, parts: list[Tensor], sample: Tensor) -> None:
    """ConfigError if a client trains on single samples and the model cannot: BatchNorm needs more than one value a channel.

    `sample`: [1, ...], a normalised one.
    """
    ranks = config.ranks_per_client

    def fewest(samples: int) -> int:
        """The samples of the smallest piece that goes through the model."""
        shares = {
            share for size in batch_sizes(samples, config.client_batch) for share in (size // ranks, -(-size // ranks))
        }
        return min((share // max(1, config.pieces(share)) for share in shares), default=2)

    lone = next((client for client, part in enumerate(parts) if fewest(len(part)) <= 1), None)
    if lone is None:
        return
    was_training, before = model.training, OwnState(model)
    try:
        with torch.no_grad(), seeded(0, "trial"):
            model.train()(sample)
    except Exception as error:
        where = f"--partition {config.partition}: client {lone}"
        if config.batch_size == 1:
            where = "--batch-size 1"
        elif ranks > 1:
            where = f"--ranks-per-client {ranks}: a rank of client {lone}"
        raise ConfigError(
            f"{where} trains on one sample at a time, and --model {config.model} cannot ({error}): give clients more "
            "samples each, or take a model without BatchNorm (--norm group)"
        ) from error
    finally:
        before.put_back()
        model.train(was_training)


def _sizes_at_sites(sizes: list[int], config: Config) -> list[int]:
    """These sizes, of the clients in their order; DataError for one below the partition's minimum."""
    least = check_partition(config.partition).minimum
    for client, size in enumerate(sizes):
        if size < least:
            raise DataError(
                f"--partition {config.partition} needs at least {least} samples a client, and the site of client {client} "
                f"has {size}"
            )
    return sizes


def _sizes(data: Dataset, rows: Tensor, validation: Split, held: list[Tensor], sizes: list[int]) -> str:
    """A sentence with the sizes of all splits."""
    own = "the data set's own split, --val-fraction is not used" if data.validation is not None else "--val-fraction"
    clients = sum(len(part) for part in held)
    of_these = f", {clients} of them held out by clients (--client-eval)" if clients else ""
    if not held:
        return (
            f"{sum(sizes)} training samples at {len(sizes)} sites; here {len(rows)} that say how samples are read, "
            f"{len(validation)} validation ({own}), {len(data.test)} test"
        )
    return f"{len(rows)} training samples{of_these}, {len(validation)} validation ({own}), {len(data.test)} test"


def _one_at_a_time(config: Config, engine: LocalEngine) -> Iterator[str]:
    """A sentence, if `--clients-at-once` can do nothing here."""
    if config.clients_at_once > 1 and (reason := reason_for_one(config, engine)):
        yield f"--clients-at-once {config.clients_at_once}: clients train one at a time, since {reason}"


def _share_out(data: Dataset, train_at: np.ndarray, config: Config, site: Site | None) -> list[Tensor]:
    """For each client, positions in `train_at` of all samples that it has; for none where they are at their sites."""
    assert config.clients is not None, "a resolved configuration has a number of clients"
    if is_by_site(config):
        every = torch.arange(len(train_at))
        return [every[: len(every) * (client == site.client)] for client in range(config.clients)] if site else []
    groups = None if data.groups is None else data.groups.numpy()[train_at]
    if data.classes and not data.is_text:
        labels = data.train.y.numpy()[train_at]
    else:
        if check_partition(config.partition).stage.name in BY_LABEL:
            raise ConfigError(
                f"--partition {config.partition} shares samples out by class, and {data.name} has "
                f"{'text' if data.is_text else 'numbers'} to predict: use iid, contiguous, quantity:SIGMA or natural"
            )
        labels = np.zeros(len(train_at), dtype=np.int64)
    parts = partition(labels, config.clients, config.partition, config.seed, groups)
    return [torch.from_numpy(part) for part in parts]
