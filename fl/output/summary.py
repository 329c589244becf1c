"""summary.json: the outcome of a run in a few numbers."""

import math
from pathlib import Path
from typing import Any

from fl.common.files import write_json
from fl.training.evaluate import client_columns
from fl.training.tasks import Score, score_of

from .record import read_metrics


def write_summary(folder: Path, *, model_sha256: str, parameters: int, extra: dict[str, Any]) -> dict[str, Any]:
    """Write summary.json from metrics.csv and return it.

    The best round is chosen on the validation score alone; the test score of that round is reported beside the final
    one. Ratios are dense bytes over real bytes, None where nothing was sent.
    """
    rows = read_metrics(folder)
    score = score_of(rows[0] if rows else ())
    totals = {
        name: int(sum(row[name] or 0 for row in rows))
        for name in ("uplink_bytes", "downlink_bytes", "uplink_dense_bytes", "downlink_dense_bytes", "engine_bytes")
        if name != "engine_bytes" or (rows and name in rows[0])
    }
    summary = {
        "rounds": len(rows),
        **_scores(rows, score),
        **{f"total_{name}": value for name, value in totals.items()},
        **{
            f"{way}_ratio": totals[f"{way}_dense_bytes"] / sent if (sent := totals[f"{way}_bytes"]) else None
            for way in ("uplink", "downlink")
        },
        "seconds": sum(row["time_s"] or 0 for row in rows),
        "parameters": parameters,
        "model_sha256": model_sha256,
        **extra,
    }
    write_json(folder / "summary.json", summary)
    return summary


def _scores(rows: list[dict[str, float | None]], score: Score) -> dict[str, Any]:
    """The score at the last evaluation and at the best one, and everything else that was measured at the last.

    None for what was not defined at the last evaluation, such as the R2 of a model that has diverged.
    """
    name, (validation, test) = score.name, score.columns
    evaluated = [row for row in rows if row["val_loss"] is not None or row["test_loss"] is not None]
    last = evaluated[-1] if evaluated else {}
    validated = [row for row in rows if row[validation] is not None]
    best = max(validated, key=lambda row: (score.gain(row[validation] or 0.0), -(row["round"] or 0)), default=None)
    found = {
        f"final_test_{name}": last.get(test),
        f"final_val_{name}": last.get(validation),
        "best_val_round": int(best["round"] or 0) if best else None,
        f"best_val_{name}": best[validation] if best else None,
        f"best_val_test_{name}": best[test] if best else None,
    }
    others = (
        [column for column in rows[0] if column.startswith(("val_", "test_", *client_columns(score)))] if rows else []
    )
    for column in others:
        value = last.get(column)
        found.setdefault(f"final_{column}", value if value is not None and math.isfinite(value) else None)
    return found
