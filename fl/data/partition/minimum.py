"""A least number of samples for every client, reached by moving samples instead of drawing again."""

import numpy as np


def raise_to_minimum(owner: np.ndarray, clients: int, minimum: int, generator: np.random.Generator) -> np.ndarray:
    """The owners (int64 [N]) after every client has at least `minimum` samples, taken from the largest clients.

    The largest are levelled down to a common size, never below the minimum; which of their samples move is random,
    by the generator. Needs N >= clients * minimum. Without a client in need the result is the same array.
    """
    sizes = np.bincount(owner, minlength=clients)
    lacking = np.maximum(minimum - sizes, 0)
    if not lacking.any():
        return owner
    given = _level_down(sizes, int(lacking.sum()))
    order = generator.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]  # by owner, at random within an owner
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    moved = order[rank < given[owner[order]]]
    owner = owner.copy()
    owner[generator.permutation(moved)] = np.repeat(np.arange(clients), lacking)
    return owner


def _level_down(sizes: np.ndarray, needed: int) -> np.ndarray:
    """How many samples each client gives, so that `needed` are given and the largest that remains is smallest."""
    falling = np.sort(sizes)[::-1]
    tops = np.arange(1, len(sizes) + 1)
    # levelling the k largest down to the (k+1)-th frees this many; the first k that frees enough is the right one
    freed = np.cumsum(falling) - tops * np.append(falling[1:], 0)
    top = int(np.searchsorted(freed, needed)) + 1
    level = (int(falling[:top].sum()) - needed) // top
    given = np.maximum(sizes - level, 0)
    spare = int(given.sum()) - needed  # less than the number of givers: each of the first keeps one
    given[np.flatnonzero(given)[:spare]] -= 1
    return given
