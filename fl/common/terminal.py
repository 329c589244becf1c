"""What a run says beside its files: on standard error, which may be closed, or nobody's any more."""

import argparse
import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from tqdm import tqdm

from compression.errors import NonFiniteError

from .errors import ConfigError, DiskError, LaunchError
from .launch import is_first_here
from .names import readable
from .stopping import stopping

_PATIENCE_S = 10.0
_SHOWN = 1000


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print the whole usage."""

    def error(self, message: str) -> NoReturn:
        """One sentence for the user."""
        raise ConfigError(message)


def say(sentence: str) -> None:
    """One line on standard error, above a progress bar; lost where nobody reads it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # broken, closed, none
        tqdm.write(sentence, file=sys.stderr)


def end_with_mistake(error: Exception) -> NoReturn:
    """A user's mistake is one line on standard error and exit status 2, on whichever ranks it is found; the disk's is 1.

    Most are found on every rank, and the first on each machine tells of them at once. The others wait: a launcher ends all
    ranks when one is gone, and the first must have spoken by then. Who is still there afterwards is alone with the mistake.
    """
    waits = not is_first_here() and not stopping.status  # a launcher that ends this rank does not wait
    if waits and not isinstance(error, (LaunchError, NonFiniteError)):
        time.sleep(_PATIENCE_S)
    text = readable(str(error))
    middle = f" ... {len(text) - 2 * _SHOWN} characters ... "  # a value may be as long as a file
    sys.stderr.write(f"error: {text if len(text) <= 3 * _SHOWN else text[:_SHOWN] + middle + text[-_SHOWN:]}\n")
    raise SystemExit(1 if isinstance(error, DiskError) else 2) from None


def try_to_write(what: str, write: Callable[[], object], remedy: str) -> None:
    """Write what a run can do without. Whatever goes wrong, its results are whole: a sentence says what is missing and
    why, and the `remedy`; the log has the traceback too."""
    try:
        write()
    except Exception as error:
        lines = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        sentence = f"{what} could not be written ({why}); {remedy}"
        logging.getLogger("leanfed").warning("%s", sentence, exc_info=True)
        say(sentence)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """In this block, writing to standard output and error never fails, whatever becomes of the terminal or the pipe."""
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        nowhere = (opened.enter_context(open(os.devnull, "w")) if stream is None else stream for stream in before)
        sys.stdout, sys.stderr = map(_Lasting, nowhere)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()  # here a broken pipe is harmless, while Python shuts down it is an error
            sys.stdout, sys.stderr = before


class _Lasting:
    """A text stream: what cannot be written is lost."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As a text stream's; characters that its encoding lacks become escapes."""
        try:
            try:
                return int(self._stream.write(text))
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                return int(self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding)))
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """As a text stream's."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Whatever is written to the file descriptor from now on, by Python's buffers too, goes nowhere."""
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
