"""`leanfed export RUN_FOLDER`: a user's mistake is one line on stderr and exit status 2."""

import argparse
import sys
from collections.abc import Sequence

from fl.common.errors import ConfigError, DataError, DiskError
from fl.common.terminal import Parser, end_with_mistake, lasting_output
from fl.training.tasks import SCORES

from .write import export_run


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = Parser(prog="leanfed export", description="Export the model of a finished run.", allow_abbrev=False)
    parser.add_argument("folder", metavar="RUN_FOLDER", help="folder of a finished run")
    parser.add_argument("--output", help="where the files go (default: RUN_FOLDER/export)")
    parser.add_argument(
        "--bits", type=int, help="integer weights of so many bits too, 4 to 8 (0: none; default: the run's --qat)"
    )
    parser.add_argument("--data-dir", help="folder of all data sets (default: the run's)")
    parser.add_argument("--dataset", help="the run's, once more, where it is package.module:function")
    parser.add_argument("--model", help="the run's, once more, where it is package.module:function")
    return parser


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    """The program: export, and say what was written."""
    try:
        options = make_parser().parse_args(argv)
        report = export_run(
            options.folder,
            options.output,
            bits=options.bits,
            data_dir=options.data_dir,
            dataset=options.dataset,
            model=options.model,
        )
    except (ConfigError, DataError, DiskError) as error:
        end_with_mistake(error)
    for name, file in report["files"].items():
        found = [(score.title, file[score.columns[1]]) for score in SCORES.values() if score.columns[1] in file]
        worth = "".join(f"  test {title} {value:.4f}" for title, value in found)
        sys.stdout.write(f"{name:24} {file['bytes']:12,} bytes{worth}\n")
    if "refused" in report.get("small", {}):
        sys.stdout.write(f"no smaller model: {report['small']['refused']}\n")


if __name__ == "__main__":
    main()
