"""report.md, report.html, accuracy.png and the tables on the console."""

from pathlib import Path
from typing import Any

from rich.table import Table as RichTable
from rich.text import Text

from .figure import draw_accuracy
from .page import write_experiment_page
from .results import Results
from .tables import Table, reference_arm, tables


def write_report(results: Results) -> Path:
    """Write accuracy.png (or r2.png), report.html and report.md to the results' folder; return the path of the last."""
    picture = results.folder / f"{results.score.name}.png"
    draw_accuracy(results, picture)
    write_experiment_page(results, picture, _unfinished(results))
    path = results.folder / "report.md"
    path.write_text(report(results), encoding="utf-8")
    return path


def report(results: Results) -> str:
    """What was run, and what came out, in Markdown."""
    experiment = results.experiment
    seeds = ", ".join(map(str, experiment.seeds))
    parts = [f"# {experiment.name}\n"]
    if experiment.description:
        parts.append(f"{experiment.description}\n")
    parts += [f"**{text}**\n" for text in _unfinished(results)]
    parts += [table.markdown() for table in tables(results)]
    parts.append(_explanation(results) + "\n")
    title, name = results.score.title, results.score.name
    parts.append(f"![Validation {title} by rounds and by bytes]({name}.png)\n")
    parts.append(_options("Arms", {arm.name: arm.varied for arm in experiment.arms}, experiment.vary))
    parts.append(f"Seeds: {seeds}. All other options are the same in every arm:\n")
    parts.append(_list({name: value for name, value in experiment.base.items() if name not in experiment.vary}))
    parts.append("Every option, defaults included, is in the `config.json` of each run folder.\n")
    parts.append("## Machine\n\n" + _list(_machine(results)))
    return "\n".join(parts)


def _unfinished(results: Results) -> list[str]:
    names = ", ".join(run.folder.name for run in results.missing)
    return [f"Not finished yet, so not in the tables: {names}."] if names else []


def _explanation(results: Results) -> str:
    title = results.score.title
    text = (
        "Mean ± sample standard deviation over n seeds. MB means 10^6 bytes, all clients and rounds together. Test, best: "
        f"the test {title} of the round with the best validation {title}. Whole run, in brackets: dense bytes of the "
        "same run over those sent."
    )
    if results.experiment.target is not None:
        text += (
            f" The target is a validation {title}, reached at the first evaluated round that has it; means are over the "
            f"seeds that reached it. In brackets: the mean of '{reference_arm(results).name}' over the arm's, given where "
            "all seeds of both have reached it."
        )
    return text


def _options(title: str, values: dict[str, dict[str, Any]], columns: tuple[str, ...]) -> str:
    lines = [[name, *(f"`{options[column]}`" for column in columns)] for name, options in values.items()]
    return Table(title, ["arm", *columns], lines).markdown()


def _list(values: dict[str, Any]) -> str:
    return "".join(f"* {name}: `{value}`\n" for name, value in values.items())


def _machine(results: Results) -> dict[str, str]:
    """Where the runs were made; several values if that was not the same for all."""
    found: dict[str, list[Any]] = {
        "CPU": [row.cpu for row in results.rows],
        "device": [row.summary["device"] for row in results.rows],
        "torch": [row.summary["torch"] for row in results.rows],
        "ranks": [row.summary["world_size"] for row in results.rows],
        "threads": [row.run.config.threads for row in results.rows],
    }
    return {name: "; ".join(dict.fromkeys(map(str, values))) for name, values in found.items()}


def console_tables(results: Results) -> list[RichTable]:
    """The report's tables for a terminal."""
    made = []
    for table in tables(results):
        shown = RichTable(title=table.title, title_justify="left", title_style="bold", pad_edge=False)
        for position, name in enumerate(table.header):
            shown.add_column(name, style="cyan" if position == 0 else "")
        for row in table.rows:
            shown.add_row(*map(Text, row))  # Text: an arm's name is no markup
        made.append(shown)
    return made
