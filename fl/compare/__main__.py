"""Runs side by side: score by bytes, by rounds and by virtual time, bytes and time to a common target, break-even bandwidth.

    leanfed compare outputFolder/dense outputFolder/topk --link poor_3g

Time on a link: in every round each client downloads, trains and uploads over a link of its own, and the round ends when the
last one has arrived; the bytes are those of clients.csv, a transfer takes latency + bytes / (bandwidth (1 - loss)), training
takes operations / speed of the profile's device (--compute flops) or what it took when it was run (--compute train_s).
Encoding, decoding, the server's step and evaluation take no time. `--link own` is the virtual time that the runs
themselves had, `--link none` leaves time out. Writes compare.csv, break_even.csv, compare.png, compare.md and compare.html
to --output.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fl.common.errors import ConfigError, DataError
from fl.common.paths import expanded
from fl.common.terminal import Parser, end_with_mistake, lasting_output

from .break_even import all_pairs
from .figure import draw
from .report import Comparison, console_tables, write_all
from .runs import Compared, make_compared, make_link, open_run


def make_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="leanfed compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=expanded, help="run folders, of one data set")
    parser.add_argument("--link", default="fair", help="own, none, a profile (docs/clock.md) or Mbit/s (default: fair)")
    parser.add_argument("--compute", choices=("flops", "train_s"), help="how long training takes (default: flops)")
    parser.add_argument(
        "--target", type=float, help="validation score to reach (default: the lowest of the runs' best)"
    )
    parser.add_argument("--output", type=expanded, default=Path("comparison"), help="folder of the results")
    return parser


def compare(folders: Sequence[Path], link: str, compute: str | None, target: float | None) -> Comparison:
    """Read the runs and compare them; ConfigError or DataError, in one sentence, if that cannot be done."""
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise ConfigError("a comparison needs two run folders or more, each once")
    chosen = make_link(link, compute)
    opened = [(folder, *open_run(folder)) for folder in folders]
    (first_folder, first, _), *others = opened
    for folder, run, _ in others:
        if run.config.get("dataset") != first.config.get("dataset") or run.score != first.score:
            raise DataError(
                f"{folder} is of the data set {run.config.get('dataset')}, {first_folder} of "
                f"{first.config.get('dataset')}: their scores cannot be compared"
            )
    runs = _named_apart([make_compared(*each, chosen) for each in opened])
    if target is None:
        target = min((float(run.validation[run.best]) for run in runs), key=first.score.gain)
    elif first.score.most is not None and not target <= first.score.most:
        raise ConfigError(f"--target {target:g} must be at most 1: {first.score.title} is a fraction, as in 0.65")
    return Comparison(runs, chosen, target, all_pairs(runs, target, chosen.latency_s))


def _named_apart(runs: list[Compared]) -> list[Compared]:
    """Runs in folders of the same name are called by the path that they were given by."""
    names = [run.name for run in runs]
    return [run if names.count(run.name) == 1 else run.called(str(run.folder)) for run in runs]


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    """The program: a user's mistake is one line on stderr and exit status 2."""
    try:
        options = make_parser().parse_args(argv)
        comparison = compare(options.runs, options.link, options.compute, options.target)
        try:
            options.output.mkdir(parents=True, exist_ok=True)
            draw(comparison.runs, comparison.target, comparison.link.name, options.output / "compare.png")
            write_all(comparison, options.output)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(f"--output {options.output} must be a folder to write to ({reason})") from None
    except (ConfigError, DataError) as error:
        end_with_mistake(error)
    console = Console()
    for table in console_tables(comparison):
        console.print(table)
    for pair in comparison.pairs:
        console.print(pair.words(), markup=False, highlight=False)
    console.print(f"results: {options.output}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
