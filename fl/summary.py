"""summary.json: the outcome of a run in a few numbers."""

import math
from pathlib import Path
from typing import Any

from .checkpoint import write_json
from .client_eval import client_columns
from .record import read_metrics
from .tasks import Score, score_of


def write_summary(folder: Path, *, model_sha256: str, parameters: int, extra: dict[str, Any]) -> dict[str, Any]:
    """Write summary.json from metrics.csv and return it.

    The best round is chosen on the validation score alone; the test score of that round is reported beside the final
    one. Ratios are dense bytes over real bytes.
    """
    rows = read_metrics(folder)
    score = score_of(rows[0] if rows else ())
    totals = {
        name: int(sum(row[name] or 0 for row in rows))
        for name in ("uplink_bytes", "downlink_bytes", "uplink_dense_bytes", "downlink_dense_bytes")
    }
    summary = {
        "rounds": len(rows),
        **_scores(rows, score),
        **{f"total_{name}": value for name, value in totals.items()},
        "uplink_ratio": totals["uplink_dense_bytes"] / max(1, totals["uplink_bytes"]),
        "downlink_ratio": totals["downlink_dense_bytes"] / max(1, totals["downlink_bytes"]),
        "seconds": sum(row["time_s"] or 0 for row in rows),
        "parameters": parameters,
        "model_sha256": model_sha256,
        **extra,
    }
    write_json(folder / "summary.json", summary)
    return summary


def _scores(rows: list[dict[str, float | None]], score: Score) -> dict[str, Any]:
    """The score after the last round and after the best one, and everything else that was measured after the last."""
    name, (validation, test) = score.name, score.columns
    tested = [row for row in rows if row[test] is not None]
    validated = [row for row in rows if row[validation] is not None]
    best = max(validated, key=lambda row: (row[validation] or 0.0, -(row["round"] or 0)), default=None)
    found = {
        f"final_test_{name}": tested[-1][test] if tested else None,
        f"final_val_{name}": validated[-1][validation] if validated else None,
        "best_val_round": int(best["round"] or 0) if best else None,
        f"best_val_{name}": best[validation] if best else None,
        f"best_val_test_{name}": best[test] if best else None,
    }
    others = (
        [column for column in rows[0] if column.startswith(("val_", "test_", *client_columns(score)))] if rows else []
    )
    for column in others:
        values = [row[column] for row in rows if row[column] is not None]
        last = values[-1] if values else None
        found.setdefault(f"final_{column}", last if last is not None and math.isfinite(last) else None)
    return found
