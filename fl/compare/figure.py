"""compare.png: validation score of the runs by bytes, by rounds and by time on the chosen link."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator, PercentFormatter

from fl.output.figures import style

from .runs import NONE, Compared

_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, "#8a4fa3", "#b8862b", "#c2406b", "#3c8dbc", style.GREY)
_DASHES = ("-", "--", ":")


def draw(runs: Sequence[Compared], target: float, link: str, path: Path) -> None:
    """Three panels, the target dashed across them; png of 300 dpi."""
    score, dataset = runs[0].score, runs[0].config.get("dataset", "")
    figure = style.new_figure(17.0, 5.6, f"{len(runs)} runs on {dataset}", f"link: {link}  ·  dashed: the target")
    by_bytes, by_round, by_time = panels = figure.subplots(1, 3, sharey=True)
    style.dress(by_bytes, "uplink and downlink so far, all clients (MB, log scale)", f"validation {score.title}")
    style.dress(by_round, "rounds", "")
    style.dress(by_time, "" if link == NONE else f"virtual time on {link} (s)", "")
    if link == NONE:
        style.note(by_time, "no link, no time")
    for at, run in enumerate(runs):
        colour, dashes = _COLOURS[at % len(_COLOURS)], _DASHES[at // len(_COLOURS) % len(_DASHES)]
        look = {"marker": "o", "markersize": style.marker_size(len(run.rounds)), "linewidth": 1.9, "color": colour}
        by_bytes.plot((run.up_bytes + run.down_bytes) / 1e6, run.validation, dashes, label=run.name, **look)
        by_round.plot(run.rounds, run.validation, dashes, **look)
        if link != NONE:
            by_time.plot(run.seconds, run.validation, dashes, **look)
    sent = [float(value) / 1e6 for run in runs for value in run.up_bytes + run.down_bytes if value > 0]
    if sent:
        style.log_axis(by_bytes, "x", min(sent), max(sent))
    for axes in panels:
        axes.axhline(target, color=style.DENSE, linewidth=1.4, linestyle=(0, (5, 3)))
    if score.percent:
        by_bytes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    by_round.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    style.legend(by_bytes, columns=2)
    path.write_bytes(style.png(figure, 300))
