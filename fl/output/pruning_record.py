"""pruning.json: what a run's pruning came to, round by round."""

from pathlib import Path
from typing import Any

import numpy as np

from fl.common.files import write_json

from .figures.run_data import RunData


def write_pruning_record(run: RunData, folder: Path) -> list[dict[str, Any]]:
    """Write pruning.json from metrics.csv and layers.csv and return it: one object for each evaluated round.

    The fields are those of the report on three use cases in which they were published. Of the global model:
    `total_params` and `non_zero_params`, `sparsity`, the fraction that is zero, and `compression_ratio`, total over
    non-zero. `accuracy` (or `r2`) is validation's, None without a validation split. Sizes are what a client sent in the
    round, the mean over the cohort, in MB (10^6 bytes): `original_size_mb` with the whole model in fp32,
    `compressed_size_mb` really.
    """
    layers = run.layers
    assert layers is not None  # the caller looks
    validation, test = (run[column] for column in run.score.columns)
    evaluated = np.isfinite(validation) | np.isfinite(test)
    # After a kill, the tables may differ by the round that was being written.
    rounds = [at for at in np.flatnonzero(evaluated) if at < len(layers["round"])]
    total = int(layers["size"][0].sum())
    record = []
    for at in rounds:
        non_zero = int(layers["non_zeros"][at].sum())
        sent, dense = run["uplink_bytes"][at], run["uplink_dense_bytes"][at]
        record.append(
            {
                "round": int(run["round"][at]),
                "sparsity": 1 - non_zero / total,
                "compression_ratio": total / non_zero if non_zero else None,
                "non_zero_params": non_zero,
                "total_params": total,
                run.score.name: float(validation[at]) if np.isfinite(validation[at]) else None,
                "original_size_mb": float(dense / run["clients"][at] / 1e6),
                "compressed_size_mb": float(sent / run["clients"][at] / 1e6),
                "size_reduction_percent": float(100 * (1 - sent / dense)),
            }
        )
    write_json(folder / "pruning.json", record)
    return record
