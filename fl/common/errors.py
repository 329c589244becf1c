"""Errors that a user can cause, each told in one sentence."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path


class ConfigError(ValueError):
    """An option has a value that cannot work; the message names the option, the value and what would be right."""


class LaunchError(ConfigError):
    """The launcher's environment variables do not fit together; only the ranks that have such variables know."""


class DataError(RuntimeError):
    """A data set is missing or malformed; the message says which file and what to do."""


class RoundError(RuntimeError):
    """A round could not be completed on some rank; model, residuals and ledger are as they were before it."""


class PeerError(RoundError):
    """A client's training has failed on one of the ranks that train it together; the same text on all of them.

    `error`: the failure itself, on the rank where it was raised.
    """

    def __init__(self, reason: str, error: BaseException | None = None) -> None:
        super().__init__(reason)
        self.error = error


class DiskError(RoundError):
    """A file of the run folder cannot be written or read: the disk is full, read-only, or gone. The options are right, and
    what was saved before is whole."""


def in_one_line(error: BaseException) -> str:
    """The type and the text of an error that anybody's code may have raised."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextlib.contextmanager
def explained(option: str) -> Iterator[None]:
    """Around a call of a library that this option describes: whatever the library raises becomes a ConfigError.

    An error that this program's own code raises, called back by the library, stays what it is.
    """
    try:
        yield
    except Exception as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if Path(__file__).parents[1] in Path(frame.f_code.co_filename).parents:
            raise
        text = " ".join(str(error).split()).partition(" For further information visit")[0]  # pydantic's last words
        known = isinstance(error, (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError)) and text
        raise ConfigError(f"{option}: {text if known else f'{type(error).__name__} {text}'}") from error
