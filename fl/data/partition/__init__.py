"""Sharing the training samples out among the clients: every sample to exactly one client, by seed alone.

A specification is `NAME[:ARG][,min=N]`; a client that would hold fewer than N samples (default 1) gets the rest from
the largest clients. A scheme returns the *owner* of every sample, so nothing can be lost or used twice. In `natural`
the data themselves say who holds what: groups of at least N training samples (default 2) are drawn when they are loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from compression.spec import SpecError, Stage, nearest, parse_stage
from fl.common.errors import ConfigError
from fl.common.seeds import numpy_generator

from .labels import by_labels
from .minimum import raise_to_minimum
from .schemes import dirichlet, iid, quantity, shards

__all__ = ["BY_LABEL", "NATURAL", "PARTITIONS", "Partition", "check_partition", "partition"]

Scheme = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]

NATURAL = "natural"
"""The partition by which every client is one group of the data set's own."""

BY_LABEL = ("dirichlet", "shards", "labels")
"""The partitions that go by the classes of the samples."""


def _iid(stage: Stage) -> Scheme:
    stage.expect(0, ["min"])
    return iid


def _dirichlet(stage: Stage) -> Scheme:
    alpha = stage.expect(1, ["min"]).number(0, 1e-6, 1e6, "the concentration")
    return lambda labels, clients, generator: dirichlet(labels, clients, alpha, generator)


def _shards(stage: Stage) -> Scheme:
    per_client = stage.expect(1, ["min"]).integer(0, 1, "the number of shards a client")
    return lambda labels, clients, generator: shards(labels, clients, per_client, generator)


def _labels(stage: Stage) -> Scheme:
    per_client = stage.expect(1, ["min"]).integer(0, 1, "the number of labels a client")
    return lambda labels, clients, generator: by_labels(labels, clients, per_client, generator)


def _quantity(stage: Stage) -> Scheme:
    sigma = stage.expect(1, ["min"]).number(0, 0, 10, "the standard deviation of log size")
    return lambda labels, clients, generator: quantity(labels, clients, sigma, generator)


def _natural(stage: Stage) -> None:
    stage.expect(0, ["min"])


PARTITIONS: dict[str, Callable[[Stage], Scheme | None]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "shards": _shards,
    "labels": _labels,
    "quantity": _quantity,
    NATURAL: _natural,
}
"""Known schemes: each reads its own specification; None needs no scheme."""


@dataclass(frozen=True)
class Partition:
    """A specification that has been read: its scheme, None for `natural`, and the fewest samples a client may hold."""

    stage: Stage
    scheme: Scheme | None
    minimum: int


def check_partition(spec: str) -> Partition:
    """Read a specification before any data are loaded; SpecError says what is wrong with it."""
    stage = parse_stage(spec)
    if stage.name not in PARTITIONS:
        raise SpecError(f"'{spec}': there is no partition '{stage.name}'{nearest(stage.name, PARTITIONS)}")
    scheme = PARTITIONS[stage.name](stage)
    usual = "2" if stage.name == NATURAL else "1"  # one to hold out, one to train on
    minimum = Stage("min", (stage.options.get("min", usual),)).integer(0, 1, "the fewest samples of a client")
    return Partition(stage, scheme, minimum)


def partition(
    labels: np.ndarray, clients: int, spec: str, seed: int, groups: np.ndarray | None = None
) -> list[np.ndarray]:
    """Share out the samples with these labels (int [N]) among `clients`, as `spec` says.

    `groups` (int [N], 0 ... clients-1): who holds every sample, for `natural` and for that only. Returns one sorted int64
    array of positions in `labels` for every client; together they hold 0 ... N-1 once each. Raises SpecError for an
    unreadable specification and ConfigError if there are too few samples, or labels, for it.
    """
    read = check_partition(spec)
    labels = np.asarray(labels)
    if read.scheme is None:
        assert groups is not None, "data without groups are refused when they are loaded"
        return _of_each(groups, clients)
    if clients * read.minimum > len(labels):
        raise ConfigError(
            f"--partition {spec} with --clients {clients} needs at least {clients * read.minimum} training samples, "
            f"not {len(labels)}"
        )
    generator = numpy_generator(seed, "partition")
    owner = read.scheme(labels, clients, generator)
    if read.stage.name == "labels":  # moved samples would bring a client labels that it must not hold
        fewest = int(np.bincount(owner, minlength=clients).min())
        if fewest < read.minimum:
            raise ConfigError(f"--partition {spec} leaves a client {fewest} samples; lower min, or use fewer clients")
    else:
        owner = raise_to_minimum(owner, clients, read.minimum, generator)
    return _of_each(owner, clients)


def _of_each(owner: np.ndarray, clients: int) -> list[np.ndarray]:
    ends = np.cumsum(np.bincount(owner, minlength=clients))[:-1]
    return np.split(np.argsort(owner, kind="stable"), ends)
