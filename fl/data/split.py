"""Holding out validation samples, on which every decision of a run is made (test data decide nothing)."""

import numpy as np

from fl.seeds import numpy_generator


def split_validation(count: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions 0 ... count-1 in two sorted, disjoint int64 arrays: (train, validation).

    Validation gets the nearest whole number to `fraction * count`, drawn by seed: at least one sample unless the
    fraction is 0, and never all of them.
    """
    held = 0 if fraction == 0 else min(max(round(fraction * count), 1), max(count - 1, 0))
    order = numpy_generator(seed, "validation").permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])
