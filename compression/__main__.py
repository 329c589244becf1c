"""`python -m compression describe SPEC --model NAME`: what a codec costs and saves on a model of that shape."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from .errors import NonFiniteError
from .grammar import read_codec
from .spec import SpecError

_EPILOG = (
    "Without --update the vector is random, with magnitudes spread as a normal distribution's and positions without any "
    "pattern: the worst case for coding positions. A real update (see docs/compression.md) takes fewer bytes."
)
_WHICH = "Which codec to take for a model, its data and a link: leanfed advise (docs/advise.md)."
_THREADS_PER_CORE = 4


def make_parser(prog: str = "leanfed describe") -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Bytes, ratio and break-even bandwidth of a codec.", epilog=_EPILOG
    )
    parser.add_argument("spec", help="the codec, as in topk:0.01+log3+zstd")
    parser.add_argument(
        "--model", default="resnet18", help="a network of the trainer's, for 10 classes of 3x32x32 images"
    )
    parser.add_argument("--update", type=Path, help="a safetensors file with a real update, tensors by name")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads for the times")
    return parser


def describe(argv: Sequence[str], prog: str = "leanfed describe") -> None:
    """The command; a user's mistake is one line on stderr and exit status 2."""
    options = make_parser(prog).parse_args(argv)
    try:
        read_codec(options.spec)
        _check(options)
        from .command import show

        show(options.spec, options.model, options.update, options.threads)
    except (SpecError, NonFiniteError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m compression describe`, which is `leanfed describe`."""
    words = sys.argv[1:] if argv is None else argv
    commands = argparse.ArgumentParser(prog="python -m compression", description=__doc__, epilog=_WHICH)
    commands.add_argument("command", choices=["describe"])
    commands.parse_args(words[:1])
    describe(words[1:], prog="python -m compression describe")


def _check(options: argparse.Namespace) -> None:
    """SpecError for a number of threads out of range, a file that is not there, or a network that nobody knows."""
    most = _THREADS_PER_CORE * (os.cpu_count() or 1)
    if options.threads is not None and not 1 <= options.threads <= most:
        raise SpecError(f"--threads {options.threads} must lie between 1 and {most}, {_THREADS_PER_CORE} for each core")
    if options.update is not None:
        if not options.update.exists():
            raise SpecError(f"--update {options.update} does not exist")
        return
    # The networks are the trainer's; the library itself never imports it.
    try:
        models, config, errors = (import_module(f"fl.{name}") for name in ("models", "common.config", "common.errors"))
    except ImportError as error:
        raise SpecError(
            f"--model {options.model}: the networks come with the trainer, which is not there ({error}); "
            "give --update FILE instead"
        ) from None
    try:
        models.check_model(config.ModelOptions(model=options.model))
    except errors.ConfigError as error:
        raise SpecError(str(error)) from None


if __name__ == "__main__":
    main()
