"""Columns of numbers to mean 0 and standard deviation 1, by training rows only."""

import numpy as np


class Scaler:
    """Subtracts each column's mean and divides by its standard deviation over the training rows.

    `mean` and `std`: float64 [F], in the columns' own units. A column that is constant in training has `std` 1.
    """

    def __init__(self, rows: np.ndarray) -> None:
        """`rows`: finite numbers [N, F], not empty, of the training split alone."""
        self.mean = rows.mean(0, dtype=np.float64)
        std = rows.std(0, dtype=np.float64)
        # a rounding error beside a large constant is no spread
        self.std = np.where(std > 1e-9 * np.abs(self.mean), std, 1.0)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """float32 of the shape of `rows` ([..., F]); what is not a number stays so."""
        return ((rows - self.mean) / self.std).astype(np.float32)
