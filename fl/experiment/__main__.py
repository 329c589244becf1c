"""`leanfed experiment FILE.yaml`: a user's mistake is one line on stderr and exit status 2."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from compression.errors import NonFiniteError
from compression.spec import nearest
from fl.common.errors import ConfigError, DataError, RoundError
from fl.common.huge_pages import use_huge_pages
from fl.common.paths import expanded
from fl.common.terminal import Parser, end_with_mistake, lasting_output

from .redraw import redraw
from .runs import run_experiment
from .spec import read_experiment


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = Parser(
        prog="leanfed experiment",
        description="Run a matrix of arms and seeds, like for like; what is finished is not repeated.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE.yaml", type=Path, help="the experiment (docs/experiments.md)")
    parser.add_argument("--data-dir", default="data", help="folder of all data sets")
    parser.add_argument("--output-dir", default="outputFolder", help="run folders go to OUTPUT_DIR/NAME/")
    parser.add_argument("--threads", type=int, help="CPU threads per rank, where the file does not say (default: 1)")
    parser.add_argument("--results", help="folder of results.csv and report.md (default: OUTPUT_DIR/NAME)")
    parser.add_argument("--only", nargs="+", default=[], metavar="ARM", help="run only these arms")
    parser.add_argument("--seeds", nargs="+", default=[], type=int, metavar="SEED", help="run only these seeds")
    parser.add_argument("--redraw", action="store_true", help="only draw the figure anew, from the tables in --results")
    # DeepSpeed's launcher passes the rank in this way; it is in the environment too, and read from there.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser()
    options, unknown = parser.parse_known_args(argv)
    for word in unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        raise ConfigError(f"there is no option {word}{nearest(word.partition('=')[0], known)}")
    return options


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    """The program: read, check, run what is not finished, show the tables."""
    use_huge_pages()
    try:
        options = _parse(sys.argv[1:] if argv is None else argv)
        experiment = read_experiment(options.file)
        if options.redraw:
            folder = expanded(options.results or str(Path(options.output_dir) / experiment.name))
            sys.stdout.write(f"{redraw(experiment, folder)}\n")
            return
        results = run_experiment(
            experiment,
            data_dir=options.data_dir,
            output_dir=options.output_dir,
            threads=options.threads,
            results=options.results,
            only=options.only,
            seeds=options.seeds,
        )
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where it was\n")
        raise SystemExit(130) from None
    except (ConfigError, DataError, RoundError, NonFiniteError) as error:
        end_with_mistake(error)
    if results is not None:
        from rich.console import Console

        from .report import console_tables

        console = Console()
        for table in console_tables(results):
            console.print(table)
        console.print(f"results: {results.folder}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
