"""The table that closes a run."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from fl.training.tasks import score_of

from .figures.run_data import PhaseData


def summary_table(summary: Mapping[str, Any]) -> Table:
    """A rich table of what summary.json holds, in human units (MB = 10^6 bytes).

    A value that is missing or None, as the validation figures of a run without validation are, is shown as a dash.
    Scores (accuracies, say) are fractions of 1, ratios are dense bytes over bytes sent.
    """
    table = Table(title="Result", title_justify="left", title_style="bold", show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")

    def row(label: str, value: str, *, style: str = "") -> None:
        table.add_row(label, Text(value, style=style))  # Text: a folder's name is no markup

    def get(key: str, form: str) -> str:
        value = summary.get(key)
        return "-" if value is None else format(value, form)

    score = score_of(summary)

    def rated(key: str) -> str:
        return "-" if summary.get(key) is None else score.words(summary[key])

    row(f"test {score.title}, last round", rated(f"final_test_{score.name}"), style="bold green")
    best = rated(f"best_val_test_{score.name}")
    if summary.get("best_val_round") is not None:
        best += f"  (round {summary['best_val_round']})"
    row(f"test {score.title}, best on validation", best)
    for way in ("uplink", "downlink"):
        row(f"{way}, whole run", _traffic(summary, way))
    if "epsilon" in summary:
        row("differential privacy", f"epsilon {summary['epsilon']:.3g} at delta {summary['delta']:g}")
    row("parameters", get("parameters", ",d"))
    row("rounds", get("rounds", ",d"))
    seconds = summary.get("seconds")
    row("time", "-" if seconds is None else duration(seconds))
    row("model SHA-256", get("model_sha256", ""))
    row("run folder", "-" if summary.get("folder") is None else str(summary["folder"]))
    return table


def phase_table(phases: PhaseData) -> Table:
    """A rich table of where the time of the rounds went (`--profile`)."""
    table = Table(title=f"Phases ({phases.words})", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("phase", style="cyan", no_wrap=True)
    for name in ("rank 0, s", "share", "mean of the ranks, s"):
        table.add_column(name, justify="right")
    for name, seconds in phases.server.items():
        table.add_row(name, f"{seconds:.3f}", f"{seconds / (phases.total or 1.0):.1%}", f"{phases.mean[name]:.3f}")
    return table


def _traffic(summary: Mapping[str, Any], way: str) -> str:
    """Bytes sent one way, and how that compares with dense updates."""
    sent, dense = summary.get(f"total_{way}_bytes"), summary.get(f"total_{way}_dense_bytes")
    if sent is None:
        return "-"
    text = megabytes(sent)
    if dense is not None:
        text += f"  (dense {megabytes(dense)}"
        ratio = summary.get(f"{way}_ratio")
        text += f", {ratio:,.1f}x)" if ratio is not None else ")"
    return text


def megabytes(count: int) -> str:
    """Bytes as MB (10^6 bytes), with enough digits that a small payload does not read as nothing."""
    mb = count / 1e6
    return f"{mb:,.1f} MB" if mb >= 10 else f"{mb:.3f} MB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8.3 s, 2 min 5 s, 1 h 2 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
