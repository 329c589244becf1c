"""`leanfed report RUN_FOLDER`: a user's mistake is one line on stderr and exit status 2."""

import sys
from collections.abc import Sequence

from fl.common.errors import ConfigError, DataError, DiskError
from fl.common.paths import expanded
from fl.common.terminal import Parser, end_with_mistake, lasting_output


def make_parser() -> Parser:
    """The parser of the command line."""
    parser = Parser(
        prog="leanfed report", description="Write report.html of a run, finished or not.", allow_abbrev=False
    )
    parser.add_argument("folder", metavar="RUN_FOLDER", help="folder of a run with at least one round")
    parser.add_argument("--figures", action="store_true", help="each figure as a 300-dpi file too")
    return parser


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    """The program: draw, and say what was written."""
    try:
        options = make_parser().parse_args(argv)
        folder = expanded(options.folder)
        from .report import FILE_DPI, write_report

        figures = write_report(folder, dpi=FILE_DPI if options.figures else None)
    except (ConfigError, DataError) as error:
        end_with_mistake(error)
    except OSError as error:
        end_with_mistake(DiskError(f"the report of {folder} cannot be written ({error.strerror})"))
    for path in (*figures, folder / "report.html"):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
