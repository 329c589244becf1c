"""Sharing the training samples out, as a specification says. A scheme returns the *owner* of every sample, so nothing can be
lost or used twice."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fl.common.errors import ConfigError
from fl.common.seeds import numpy_generator

from . import NATURAL, check_partition
from .labels import by_labels
from .minimum import raise_to_minimum
from .schemes import contiguous, dirichlet, iid, quantity, shards

SCHEMES: dict[str, Callable[..., np.ndarray]] = {
    "iid": iid,
    "contiguous": contiguous,
    "dirichlet": dirichlet,
    "shards": shards,
    "labels": by_labels,
    "quantity": quantity,
}
"""Called with the labels, the number of clients, the argument of the specification if it has one, and a generator."""


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
    if read.stage.name == NATURAL:
        assert groups is not None, "data without groups are refused when they are loaded"
        return _of_each(groups, clients)
    if clients * read.minimum > len(labels):
        raise ConfigError(
            f"--partition {spec} with --clients {clients} needs at least {clients * read.minimum} training samples, "
            f"not {len(labels)}"
        )
    generator = numpy_generator(seed, "partition")
    argument: tuple[Any, ...] = () if read.argument is None else (read.argument,)
    owner = SCHEMES[read.stage.name](labels, clients, *argument, generator)
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
