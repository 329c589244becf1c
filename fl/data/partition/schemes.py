"""Partitions whose clients may hold any label. Each returns the owner of every sample, int64 [N]."""

import numpy as np

from fl.common.errors import ConfigError


def iid(labels: np.ndarray, clients: int, generator: np.random.Generator) -> np.ndarray:
    """Shuffled and dealt round: sizes differ by at most one."""
    owner = np.empty(len(labels), dtype=np.int64)
    owner[generator.permutation(len(labels))] = np.arange(len(labels)) % clients
    return owner


def contiguous(labels: np.ndarray, clients: int, generator: np.random.Generator) -> np.ndarray:
    """Cut in the order of the samples, as a text or a recording is: sizes differ by at most one. Nothing is drawn."""
    return np.arange(len(labels)) * clients // len(labels)


def dirichlet(labels: np.ndarray, clients: int, alpha: float, generator: np.random.Generator) -> np.ndarray:
    """Each label is divided by proportions of its own from Dirichlet(alpha) (Yurochkin et al. 2019, Li et al. 2022).

    Small alpha: few labels a client and sizes far apart; large alpha: nearly iid. A client may get nothing.
    """
    owner = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        owner[members] = _divide(len(members), generator.dirichlet(np.full(clients, alpha)))
    return owner


def quantity(labels: np.ndarray, clients: int, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Any labels, but log-normal sizes: log size has the standard deviation sigma (as in Acar et al. 2021).

    A client may get nothing.
    """
    weights = generator.lognormal(0.0, sigma, clients)
    owner = np.empty(len(labels), dtype=np.int64)
    owner[generator.permutation(len(labels))] = _divide(len(labels), weights / weights.sum())
    return owner


def shards(labels: np.ndarray, clients: int, per_client: int, generator: np.random.Generator) -> np.ndarray:
    """Sorted by label, cut into clients * per_client equal shards, dealt at random (McMahan et al. 2017).

    Shards differ by at most one sample and are never empty: ConfigError if there are more shards than samples.
    """
    count = clients * per_client
    if count > len(labels):
        raise ConfigError(
            f"--partition shards:{per_client} with --clients {clients} makes {count} shards, "
            f"more than the {len(labels)} training samples"
        )
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    shard = np.arange(len(labels)) * count // len(labels)
    owner = np.empty(len(labels), dtype=np.int64)
    owner[order] = (generator.permutation(count) % clients)[shard]
    return owner


def _divide(samples: int, proportions: np.ndarray) -> np.ndarray:
    """The owner of each of so many samples in a row, in these proportions (they sum to 1)."""
    ends = np.floor(np.cumsum(proportions) * samples + 0.5).astype(np.int64)
    ends[-1] = samples  # whatever the rounding of the sum
    return np.searchsorted(ends, np.arange(samples), side="right")
