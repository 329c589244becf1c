"""CIFAR-10 among 500 clients of 100 images each, as in Reddi et al. (2020), for `--partition natural`.

Every client draws the proportions of its classes from Dirichlet(0.1) and then its images, without putting any back; a class
that has run out is left out, and the others share its part (Hsu et al. 2019; Reddi et al. 2020, appendix). `--partition
dirichlet` divides each class among clients instead (Yurochkin et al. 2019), so that their sizes differ. The draw does not
depend on `--seed`: all runs share one federation, as theirs did.
"""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from fl.common.seeds import numpy_generator
from fl.data import Dataset
from fl.data.cifar10 import load as load_cifar10

CLIENTS, ALPHA = 500, 0.1


def load(data_dir: Path) -> Dataset:
    """CIFAR-10 from DIR or DIR/cifar10, its training images in groups, one for each client; DataError if it is not there."""
    data = load_cifar10(data_dir, download=False)
    owner = equal_dirichlet(data.train.y.numpy(), CLIENTS, ALPHA, numpy_generator(0, "equal dirichlet"))
    return dataclasses.replace(data, groups=torch.from_numpy(owner))


def equal_dirichlet(labels: np.ndarray, clients: int, alpha: float, generator: np.random.Generator) -> np.ndarray:
    """The client, int64 [N], of each sample with these labels [N]; N must be a multiple of `clients`, ValueError if not."""
    if len(labels) % clients:
        raise ValueError(f"{len(labels)} samples cannot be shared out equally among {clients} clients")
    classes = int(labels.max()) + 1
    piles = [list(generator.permutation(np.flatnonzero(labels == label))) for label in range(classes)]
    owner = np.empty(len(labels), dtype=np.int64)
    for client in range(clients):
        # Gamma variables: a Dirichlet draw before it is normalised, which is done again whenever a class has run out.
        weights = np.maximum(generator.gamma(alpha, size=classes), np.finfo(np.float64).tiny)
        for _ in range(len(labels) // clients):
            left = np.where([len(pile) > 0 for pile in piles], weights, 0.0)
            owner[piles[generator.choice(classes, p=left / left.sum())].pop()] = client
    return owner
