"""The report of a run folder: one page of HTML, and on demand its figures as files for print."""

import contextlib
import functools
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fl.common.files import write_bytes
from fl.common.terminal import try_to_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE_DPI = 300
_PAGE_DPI = 83  # the dashboard is 1,500 pixels wide: as many as a wide screen shows
_WIDE = ("dashboard", "layers", "timeline")
_NO_GLYPH = re.compile("Glyph .* missing from")  # how matplotlib's warning begins


def write_report(folder: Path, *, dpi: int | None = None) -> list[Path]:
    """Write report.html of the run in `folder` from its csv and JSON files: one file that needs no other.

    `dpi`: draw every figure as a PNG file of this resolution too, and return their paths: six, and one more each with
    pruning, with virtual time, with predictions of the test samples, and with `--client-eval`.

    A run that prunes gets its pruning.json here as well. Works after any round, so a run cut short has a report too. Needs
    metrics.csv; config.json, clients.csv, layers.csv, client_eval.csv, confusion.csv, predictions.csv, partition.json and
    summary.json are used where they exist. DataError if one of them is malformed or metrics.csv is missing. A figure that
    fails does not keep the others from being written: the first failure is raised at the end.
    """
    # Here, so that importing the package does not load matplotlib.
    from .figures import accuracy, partition, style, timing, traffic
    from .figures.dashboard import draw_dashboard
    from .figures.judgements import draw_judgements
    from .figures.layers import draw_layers
    from .figures.run_data import read_run
    from .figures.timeline import draw_timeline
    from .html.page import Picture
    from .html.run_page import write_run_page
    from .pruning_record import write_pruning_record

    run = read_run(folder)
    score = run.score
    paths: list[Path] = []
    pictures: list[Picture] = []

    def save(name: str, figure: "Figure") -> None:
        if dpi is not None:
            paths.append(folder / f"{name}.png")
            write_bytes(paths[-1], style.png(figure, dpi))

    def show(drawn: "Mapping[str, Figure]") -> None:
        for name, figure in drawn.items():
            save(name, figure)
            pictures.append(Picture.of(io.BytesIO(style.png(figure, _PAGE_DPI)), name, wide=name in _WIDE))

    def draw_plain(name: str, title: str, draw: Callable[..., None], size: tuple[float, float]) -> None:
        figure = style.new_figure(size[0], size[1], f"{run.name}: {title}", run.subtitle)
        draw(figure.add_subplot(), run)
        save(name, figure)

    steps: list[Callable[[], object]] = []
    if dpi is not None:  # on the page they are the panels of the dashboard
        plain = (
            (f"{score.name}_vs_round", f"{score.title} by round", accuracy.draw_accuracy_vs_round, (8.0, 5.0)),
            (f"{score.name}_vs_bytes", f"{score.title} by bytes sent", accuracy.draw_accuracy_vs_bytes, (8.0, 5.0)),
            ("bytes_per_round", "bytes by round", traffic.draw_bytes_per_round, (8.0, 5.0)),
            ("time_per_round", "time by round", timing.draw_time_per_round, (8.0, 5.0)),
            ("partition", "partition", partition.draw_partition, (9.0, 5.5)),
        )
        steps += [functools.partial(draw_plain, *each) for each in plain]
    steps.append(lambda: show({"dashboard": draw_dashboard(run)}))
    if run.layers is not None:
        steps.append(lambda: write_pruning_record(run, folder))
        steps.append(lambda: show({"layers": draw_layers(run)}))
    if run.times is not None:
        steps.append(lambda: show({"timeline": draw_timeline(run)}))
    steps.append(lambda: show(draw_judgements(run, folder)))
    steps.append(lambda: write_run_page(folder, run, pictures))

    failures = []
    with _missing_glyphs_in_the_log():
        for step in steps:
            try:
                step()
            except Exception as error:
                failures.append(error)
    if failures:
        raise failures[0]
    return paths


def try_report(folder: Path, remedy: str, *, figures: bool) -> None:
    """`write_report` of a run whose results are whole, with its files of 300 dpi if `figures`: what fails costs a sentence
    that ends in `remedy`."""
    words = f"figures or report.html of {folder}"
    try_to_write(words, lambda: write_report(folder, dpi=FILE_DPI if figures else None), remedy)


@contextlib.contextmanager
def _missing_glyphs_in_the_log() -> Iterator[None]:
    """One sentence in run.log where matplotlib has a warning for each letter; other warnings stay what they are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", _NO_GLYPH.pattern)
        yield
    letters = {str(each.message) for each in caught if _NO_GLYPH.match(str(each.message))}
    if letters:
        words = "%d characters of names are not in matplotlib's font; figures show boxes in their place"
        logging.getLogger("leanfed").info(words, len(letters))
    for each in caught:
        if str(each.message) not in letters:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
