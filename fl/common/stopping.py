"""How a run ends before its last round: a signal lets it finish the round, and it says how to go on.

Nothing but the standard library is imported here, so that Ctrl-C is heard while the rest is.
"""

import contextlib
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator

from .launch import command_with, is_first_here

_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGUSR1: 143}
_SAME_CTRL_C_S = 2.0
_BEGIN = "nothing was saved yet: begin again"


class Stopped(Exception):
    """A signal asked the run to stop, and it did, after a whole round. The message, empty on ranks other than 0, says how to
    go on; `status` is the exit status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Stopping:
    """What signals ask of this process, and how its run can go on.

    During rounds a signal only sets `status`, and the round is finished. Before and after, and at a second Ctrl-C, the
    process ends at once. A thread hears the signals, since the main one may be waiting for other ranks in C++ code.
    """

    def __init__(self) -> None:
        self.status = 0
        """The exit status that a signal has asked for; 0 if none came."""
        self.remedy = _BEGIN
        self._listens = False
        self.in_rounds = False
        self._interrupted_s: float | None = None  # when Ctrl-C was heard first

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Hear SIGINT, SIGTERM, SIGHUP and SIGUSR1 in this block. One that the process ignores stays ignored."""
        if self._listens or threading.current_thread() is not threading.main_thread():
            yield
            return
        _fill_standard_streams()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        heard = [number for number in _STATUS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, lambda *_: None) for number in heard}
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._listen, args=(reader,), name="signals", daemon=True)
        thread.start()
        self._listens = True
        try:
            yield
        finally:
            self._listens, self.status, self._interrupted_s = False, 0, None
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(writer)
            thread.join()
            os.close(reader)

    @contextlib.contextmanager
    def after_the_round(self) -> Iterator[None]:
        """In this block a signal does not end the process."""
        self.in_rounds = True
        try:
            yield
        finally:
            self.in_rounds = False

    def note_saved(self, *options: str) -> None:
        """There is a checkpoint, and these options go on from it; none: a run begins that has no checkpoint yet."""
        again = command_with(*options) if self._listens else shlex.join(options)
        self.remedy = f"to go on: {again}" if options else _BEGIN

    def _listen(self, reader: int) -> None:
        while number := os.read(reader, 1):
            if number[0] in _STATUS:
                self._hear(signal.Signals(number[0]))

    def _hear(self, number: signal.Signals) -> None:
        self.status = self.status or _STATUS[number]
        first_s, now = self._interrupted_s, time.monotonic()
        if number == signal.SIGINT and first_s is None:
            self._interrupted_s = now
        # torchrun sends its ranks a second SIGINT when the terminal has sent all of them the first.
        patience_s = _SAME_CTRL_C_S if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
        again = number == signal.SIGINT and first_s is not None and now - first_s >= patience_s
        if again or not self.in_rounds:
            _tell(f"{number.name}: ended at once; {self.remedy}")
            os._exit(self.status)
        if number == signal.SIGINT and first_s is None:
            _tell("SIGINT: this round is finished first; a second Ctrl-C ends at once")


def _fill_standard_streams() -> None:
    """One that was closed at the start goes nowhere: its number must not be a file's, into which messages would be
    written."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def write_line(sentence: str) -> None:
    """One line on standard error at once, whoever holds the stream's lock."""
    bar = "\n" if os.isatty(2) else ""  # a progress bar's line has no end
    with contextlib.suppress(OSError):
        os.write(2, f"{bar}{sentence}\n".encode(errors="backslashreplace"))


def _tell(sentence: str) -> None:
    """From one process of a machine."""
    if is_first_here():
        write_line(sentence)


stopping = Stopping()
"""Of this process: signals come to it as a whole."""
