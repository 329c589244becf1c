"""What `measure_links.py` found: rows with their predictions, as csv, Markdown and a figure."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fl.output.figures import style

DENSE = "fp32, payload"
_COLOURS = (style.GREY, "#8a4fa3", "#b8862b", style.GREEN, style.BLUE, style.INK, style.ORANGE)
_MARKERS = "osv^DXP"


@dataclass(frozen=True)
class Row:
    """A scheme on a link of `mbit` (10^6 bits/s); `seconds` and what the kernel counted are None where it is only predicted.

    `payload_bytes`: what one client hands over. `seconds`: median of `repeats`, from the encoder's start to the end of the
    decoder, both included. `encode_s`, `decode_s`: their part of it; all computing of a hook counts as encoding.
    `latency_s`: the same exchange with payloads of one byte. `client_tx_bytes`, `server_rx_bytes`: what went out of the
    first client's interface and into the server's.
    """

    scheme: str
    all_reduce: bool
    mbit: float
    clients: int
    payload_bytes: int
    encode_s: float
    decode_s: float
    latency_s: float
    client_tx_bytes: int | None = None
    server_rx_bytes: int | None = None
    seconds: float | None = None
    repeats: int = 0

    @property
    def link_bytes(self) -> float:
        """What the busiest link carries one way: the server's gets every payload; a ring all-reduce of W ranks sends
        2 (W - 1) / W of its tensor over each."""
        ranks = self.clients + 1
        return self.payload_bytes * (2 * (ranks - 1) / ranks if self.all_reduce else self.clients)

    @property
    def predicted_s(self) -> float:
        """encode_s + link_bytes * 8 / bandwidth + latency_s + decode_s."""
        return self.encode_s + 8 * self.link_bytes / (self.mbit * 1e6) + self.latency_s + self.decode_s

    @property
    def transfer_s(self) -> float | None:
        """Measured seconds that were neither encoding nor decoding."""
        return None if self.seconds is None else self.seconds - self.encode_s - self.decode_s

    @property
    def best_s(self) -> float:
        """Measured seconds, or the predicted ones where nothing was measured."""
        return self.predicted_s if self.seconds is None else self.seconds


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Every row with what follows from it; ratios are those of dense fp32 on the same link, over this."""
    extra = ("transfer_s", "predicted_s", "bytes_ratio", "seconds_ratio")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*(field.name for field in fields(Row)), *extra], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            dense = _dense(rows, row.mbit)
            cells = {**asdict(row), "transfer_s": row.transfer_s, "predicted_s": row.predicted_s}
            cells |= {
                "bytes_ratio": dense.payload_bytes / row.payload_bytes,
                "seconds_ratio": dense.best_s / row.best_s,
            }
            writer.writerow(
                {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in cells.items()}
            )


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and one line a scheme: bytes, computing, and on each link seconds, predicted ones, and how many times faster
    than dense."""
    mbits = sorted({row.mbit for row in rows})
    is_measured = rows[0].seconds is not None
    header = ["scheme", "payload, bytes", "fewer bytes", *(["interface, bytes"] if is_measured else [])]
    header += ["encode, ms", "decode, ms"]
    header += [f"{mbit:g} Mbit/s: s{' (predicted), faster' if is_measured else ', predicted only'}" for mbit in mbits]
    lines = [header]
    for name in dict.fromkeys(row.scheme for row in rows):
        own = sorted((row for row in rows if row.scheme == name), key=lambda row: row.mbit)
        first, fast = own[0], own[-1]
        line = [
            name,
            f"{first.payload_bytes:,}",
            f"{_dense(rows, first.mbit).payload_bytes / first.payload_bytes:.1f}x",
        ]
        line += [f"{first.client_tx_bytes:,}"] if is_measured else []
        line += [f"{1e3 * fast.encode_s:.1f}", f"{1e3 * fast.decode_s:.1f}" if not first.all_reduce else "-"]
        for row in own:
            times = f"{_dense(rows, row.mbit).best_s / row.best_s:.3g}x"
            seconds = f"{row.best_s:.3g}" + (f" ({row.predicted_s:.3g})" if is_measured else "")
            line.append(f"{seconds}, {times}")
        lines.append(line)
    return lines


def markdown(rows: Sequence[Row], words: Sequence[str]) -> str:
    """The table in Markdown, below so many paragraphs."""
    header, *lines = table(rows)
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))
    return "\n\n".join(["# Real links", *words, body, "![Seconds and bytes by scheme](links.png)"]) + "\n"


def draw(rows: Sequence[Row], path: Path, subtitle: str) -> None:
    """Seconds by bandwidth, measured (marks) and predicted (lines), and bytes by scheme; png of 300 dpi."""
    figure = style.new_figure(13.0, 5.6, "One round's update over a real link", subtitle)
    FigureCanvasAgg(figure)
    seconds, sizes = figure.subplots(1, 2, width_ratios=(1.35, 1))
    names = list(dict.fromkeys(row.scheme for row in rows))
    _draw_seconds(seconds, rows, names)
    _draw_bytes(sizes, rows, names)
    figure.savefig(path, dpi=300, format="png")


def _draw_seconds(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    style.dress(axes, "link, both ways (Mbit/s, log scale)", "seconds of an exchange (log scale)")
    for at, name in enumerate(names):
        own = sorted((row for row in rows if row.scheme == name), key=lambda row: row.mbit)
        x, colour = [row.mbit for row in own], _COLOURS[at % len(_COLOURS)]
        axes.plot(x, [row.predicted_s for row in own], ":", color=colour, linewidth=1.3)
        look = {"markersize": 6.5, "markeredgecolor": "white", "linewidth": 1.8}
        axes.plot(x, [row.best_s for row in own], "-", marker=_MARKERS[at % 7], color=colour, label=name, **look)
    for which, values in (("x", [row.mbit for row in rows]), ("y", [row.best_s for row in rows])):
        style.log_axis(axes, which, min(values), max(values))
    style.legend(axes, columns=2)


def _draw_bytes(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    style.dress(axes, "bytes that a client sends (MB, log scale)", "", "Payload, and what its interface counted")
    slowest = min(row.mbit for row in rows)
    own = [next(row for row in rows if row.scheme == name and row.mbit == slowest) for name in names]
    payload = [row.payload_bytes / 1e6 for row in own]
    counted = [(row.client_tx_bytes or 0) / 1e6 for row in own]
    places = range(len(names))
    axes.barh([at - 0.2 for at in places], payload, 0.38, color=style.BLUE, label="payload")
    if any(counted):
        axes.barh([at + 0.2 for at in places], counted, 0.38, color=style.ORANGE, label="interface (tx)")
    axes.set_yticks(list(places), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(False, axis="y")
    style.log_axis(axes, "x", min(payload), max(payload))
    style.legend(axes, columns=2)


def _dense(rows: Sequence[Row], mbit: float) -> Row:
    return next(row for row in rows if row.scheme == DENSE and row.mbit == mbit)
