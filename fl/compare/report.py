"""A comparison as csv files, Markdown, a page of HTML and tables for a terminal."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as RichTable
from rich.text import Text

from fl.experiment.tables import Table
from fl.output.html.page import Page, Picture, SortableTable
from fl.output.summary_table import duration, megabytes

from .break_even import BreakEven, cost_to
from .runs import NONE, Compared, Link, Total

_SAME = ("run_name", "output_dir", "data_dir", "resume", "quiet", "download", "checkpoint_every", "threads")


@dataclass(frozen=True)
class Comparison:
    """Runs on a link, the validation score to reach, and who is sooner there."""

    runs: list[Compared]
    link: Link
    target: float
    pairs: list[BreakEven]

    def cells(self, run: Compared) -> dict[str, Any]:
        """A row of compare.csv: scores, whole run, and to the target; None where it was not reached or is not known.

        `slowest_compute_s` and `slowest_bytes` are C less latencies and D of `break_even`.
        """
        best, at, name = run.best, run.reach(self.target), run.score.name
        cost = cost_to(run, self.target, 0.0)
        whole = _columns(run.whole)
        reached = {} if at is None else _columns(run.total(at))
        validation, test = run.last
        return {
            "run": run.name,
            f"final_test_{name}": _known(test),
            f"final_val_{name}": _known(validation),
            "best_val_round": int(run.rounds[best]) - 1,
            f"best_val_{name}": float(run.validation[best]),
            f"best_val_test_{name}": _known(run.test[best]),
            **whole,
            "target": self.target,
            **{f"{column}_to_target": reached.get(column) for column in whole},
            "slowest_compute_s": None if cost is None else cost.seconds,
            "slowest_bytes": None if cost is None else cost.link_bytes,
        }

    def tables(self) -> list[Table]:
        """The whole run, and up to the target."""
        score = self.runs[0].score
        whole = ["run", "test, last", "validation, best", "rounds", "uplink", "downlink", "time"]
        aim = ["run", "rounds", "uplink", "downlink", "both", "time"]
        lines, reached = [], []
        for run in self.runs:
            cells = self.cells(run)
            best = f"{score.words(run.validation[run.best])} (round {run.rounds[run.best] - 1:.0f})"
            last = "-" if cells[f"final_test_{score.name}"] is None else score.words(run.last[1])
            lines.append([run.name, last, best, *_words(cells, "")[:3], _time(cells["link_s"])])
            reached.append([run.name, *_words(cells, "_to_target"), _time(cells["link_s_to_target"])])
        goal = f"To {score.words(self.target)} on validation"
        return [Table("Whole run", whole, lines), Table(goal, aim, reached)]

    def notes(self) -> list[str]:
        """What the figures mean, in paragraphs."""
        if self.link.name == NONE:
            time = "There is no link, so there is no time."
        elif self.link.profile is None:
            time = "Time is the virtual time of the runs themselves."
        else:
            each = self.link.profile
            device = f"{each.compute_flops:g} FLOP/s" if self.link.compute == "flops" else "the seconds that it took"
            time = (
                f"Time: every client has a link of its own ({self.link.name}: {each.up_bytes * 8e-6:g} Mbit/s up, "
                f"{each.down_bytes * 8e-6:g} down, latency {each.latency_s * 1e3:g} ms, loss {each.loss:g}, no jitter) and "
                f"trains with {device}; a round ends with its slowest client. Codecs, server and evaluation take no time."
            )
        return [
            "Bytes are those of all clients, counted where they were made; MB means 10^6 bytes. The target is reached at "
            "the first evaluated round that has it.",
            time,
        ]

    def differences(self) -> dict[str, list[str]]:
        """Options that are not the same in all runs, with each run's value."""
        names = dict.fromkeys(name for run in self.runs for name in run.config if name not in _SAME)
        values = {name: [str(run.config.get(name)) for run in self.runs] for name in names}
        return {name: own for name, own in values.items() if len(set(own)) > 1}


_BREAK_EVEN = (
    "Break-even: with a link of b bits/s both ways and rounds that wait for their slowest client, a run takes C + 8 D / b "
    "to the target (C: its seconds of computing and latencies, D: its bytes), so two runs are equally fast at "
    "8 (D_A - D_B) / (C_B - C_A)."
)


def write_all(found: Comparison, folder: Path) -> None:
    """Write compare.csv, break_even.csv, compare.md and compare.html, which holds the compare.png that is there."""
    rows = [found.cells(run) for run in found.runs]
    _write(folder / "compare.csv", rows)
    _write(folder / "break_even.csv", [asdict(pair) for pair in found.pairs])
    (folder / "compare.md").write_text("\n".join(_markdown(found)), encoding="utf-8")
    _page(found, rows, folder).write(folder / "compare.html")


def _page(found: Comparison, rows: list[dict[str, Any]], folder: Path) -> Page:
    score, dataset = found.runs[0].score, str(found.runs[0].config.get("dataset", ""))
    sent = ("rounds", "uplink_bytes", "downlink_bytes", "link_s")
    whole = ("run", f"final_test_{score.name}", f"best_val_{score.name}", "best_val_round", *sent)
    reached = ("run", *(f"{name}_to_target" for name in sent), "slowest_compute_s", "slowest_bytes")
    tables = [
        SortableTable.of(title, {name.removesuffix("_to_target"): [row[name] for row in rows] for name in names}, note)
        for title, names, note in (
            ("Whole run", whole, f"link_s: virtual seconds on the link {found.link.name}."),
            (f"To {score.words(found.target)} on validation", reached, "Empty where it was not reached."),
        )
    ]
    differences = found.differences()
    options: dict[str, Sequence[Any]] = {"option": list(differences)}
    options |= {run.name: [values[at] for values in differences.values()] for at, run in enumerate(found.runs)}
    tables.append(SortableTable.of("Options", options, "Those that differ between the runs."))
    cards = []
    for run in found.runs:
        both = f"{megabytes(run.whole.up_bytes)} up, {megabytes(run.whole.down_bytes)} down"
        cards.append((run.name, score.words(float(run.validation[run.best])), f"best on validation; {both}"))
    notes = [*found.notes(), _BREAK_EVEN, *(pair.words() + "." for pair in found.pairs)]
    picture = Picture.of(folder / "compare.png", "Validation score by bytes, rounds and time", wide=True)
    return Page(" against ".join(run.name for run in found.runs), dataset, cards, notes, [picture], tables)


def console_tables(found: Comparison) -> Iterator[RichTable]:
    """The tables for a terminal."""
    for table in found.tables():
        shown = RichTable(title=f"{table.title}  ({found.link.name})", title_justify="left", pad_edge=False)
        for at, name in enumerate(table.header):
            shown.add_column(name, style="cyan" if at == 0 else "", justify="left" if at == 0 else "right")
        for row in table.rows:
            shown.add_row(*map(Text, row))  # Text: a run's name is no markup
        yield shown


def _markdown(found: Comparison) -> Iterator[str]:
    yield f"# {len(found.runs)} runs on {found.runs[0].config.get('dataset', '')}\n"
    yield from (table.markdown() for table in found.tables())
    yield from (f"{text}\n" for text in found.notes())
    yield "![Validation score by bytes, rounds and time](compare.png)\n"
    yield "## Break-even bandwidth\n"
    yield "".join(f"* {pair.words()}\n" for pair in found.pairs) or f"{_why_none(found)}\n"
    yield f"{_BREAK_EVEN}\n"
    rows = [[name, *values] for name, values in found.differences().items()]
    yield Table("Options that differ", ["option", *(run.name for run in found.runs)], rows).markdown()


def _why_none(found: Comparison) -> str:
    """Why there is no break-even."""
    if sum(run.reach(found.target) is not None for run in found.runs) < 2:
        return "Fewer than two runs reached the target."
    if found.link.name == NONE:
        return "Without a link there is no break-even."
    return "Rounds of these runs do not wait for their slowest client, so there is no break-even."


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _columns(total: Total) -> dict[str, Any]:
    sent = {"uplink_bytes": total.up_bytes, "downlink_bytes": total.down_bytes}
    return {"rounds": total.rounds, **sent, "link_s": _known(total.seconds)}


def _words(cells: dict[str, Any], ending: str) -> list[str]:
    """Rounds and bytes up, down and together, for people."""
    if cells[f"rounds{ending}"] is None:
        return ["-"] * 4
    up, down = cells[f"uplink_bytes{ending}"], cells[f"downlink_bytes{ending}"]
    return [str(cells[f"rounds{ending}"]), megabytes(up), megabytes(down), megabytes(up + down)]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["fewer", "other", "bits_per_s"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
