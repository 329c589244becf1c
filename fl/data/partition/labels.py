"""labels:K, the partition in which every client holds exactly K labels."""

import heapq

import numpy as np

from fl.common.errors import ConfigError


def by_labels(labels: np.ndarray, clients: int, per_client: int, generator: np.random.Generator) -> np.ndarray:
    """Every client holds exactly `per_client` labels, at random, and every label is held (Li et al. 2022, "#C = k").

    A label has holders in proportion to its samples, so that clients are about equally large, and is divided equally
    among them. Returns the owner of every sample, int64 [N]; ConfigError if no such partition exists.
    """
    names, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    quotas = _holders(counts, clients, per_client)
    held = _assign(quotas, clients, generator)
    owner = np.empty(len(labels), dtype=np.int64)
    for label in range(len(names)):
        holders = generator.permutation(np.flatnonzero(held[:, label]))
        samples = generator.permutation(np.flatnonzero(members == label))
        owner[samples] = holders[np.arange(len(samples)) % len(holders)]
    return owner


def _holders(counts: np.ndarray, clients: int, per_client: int) -> np.ndarray:
    """How many clients hold each label: at least one, at most one a sample, clients * per_client in all.

    Seats go one by one to the label with the most samples a holder (D'Hondt's highest averages).
    """
    labels, seats = len(counts), clients * per_client
    option = f"--partition labels:{per_client} with --clients {clients}"
    if per_client > labels:
        raise ConfigError(f"{option}: there are only {labels} labels")
    if seats < labels:
        raise ConfigError(f"{option} leaves labels unused: clients * K must be at least {labels}")
    most = np.minimum(counts, clients)
    if seats > most.sum():
        raise ConfigError(f"{option}: too few samples ({counts.sum()}) for every client to hold {per_client} labels")
    quotas = np.ones(labels, dtype=np.int64)
    queue = [(-counts[label] / 2, label) for label in range(labels) if most[label] > 1]
    heapq.heapify(queue)
    for _ in range(seats - labels):
        _, label = heapq.heappop(queue)
        quotas[label] += 1
        if quotas[label] < most[label]:
            heapq.heappush(queue, (-counts[label] / (quotas[label] + 1), label))
    return quotas


def _assign(quotas: np.ndarray, clients: int, generator: np.random.Generator) -> np.ndarray:
    """Which client holds which label, bool [clients, labels], with these column sums and equal row sums.

    Row by row, drawn with probabilities in proportion to what is left of the quotas (Efraimidis and Spirakis 2006),
    but a label that all remaining clients must hold is taken first. Rows of equal sum can be completed whenever no
    quota exceeds the number of rows left, so there is never anything to undo.
    """
    left = quotas.astype(np.int64)
    per_client = int(left.sum()) // clients
    held = np.zeros((clients, len(left)), dtype=bool)
    draws = generator.exponential(size=held.shape) + 1e-300
    for client in range(clients):
        with np.errstate(divide="ignore"):
            keys = np.where(left == clients - client, -1.0, draws[client] / left)  # smallest keys win; none left: inf
        chosen = np.argsort(keys, kind="stable")[:per_client]
        held[client, chosen] = True
        left[chosen] -= 1
    return held
