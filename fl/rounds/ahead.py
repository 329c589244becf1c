"""`--overlap` between ranks: while a round's messages travel, each rank trains its clients of the next round."""

import threading
import time
from collections.abc import Callable, Iterable

import torch

from fl.models.update import Update
from fl.training.trainer import ClientTrainer, Outcome

Training = Callable[[], Iterable[tuple[int, Outcome]]]
"""Trains clients, one after another as they are asked for: each with its outcome."""


class Ahead:
    """Trains clients of the next round on a thread, as a context: at its end the thread has ended too.

    The main thread exchanges meanwhile, so that one thread alone calls the other ranks. What was trained ahead is handed to
    `trainer`, which returns it in the next round instead of training.

    A participant of the round's transaction: after a round that failed everything is trained again, to the same bits. So is
    a client whose training ahead raised an error, which then counts where it belongs.
    """

    def __init__(self, trainer: ClientTrainer, device: torch.device) -> None:
        self.waited_s = 0.0
        """Seconds of the last round in which the main thread had nothing to do but wait for the training."""
        self._trainer = trainer
        # On a stream that waits for a transfer, nothing would be trained until that has ended.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread: threading.Thread | None = None
        self._updates: dict[tuple[int, int], Update] = {}
        self._over = threading.Event()

    def start(self, number: int, train: Training) -> None:
        """Begin the training of round `number`."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._over.clear()
        self._thread = threading.Thread(target=self._run, args=(number, train), name="trains ahead", daemon=True)
        self._thread.start()

    def _run(self, number: int, train: Training) -> None:
        with torch.cuda.stream(self._stream):
            for client, outcome in train():
                if not isinstance(outcome, BaseException):
                    self._updates[client, number] = outcome[1]
                if self._over.is_set():
                    break
            if self._stream is not None:
                self._stream.synchronize()

    def __enter__(self) -> None:
        self._updates, self.waited_s = {}, 0.0

    def __exit__(self, kind: object, *_: object) -> None:
        if self._thread is None:
            return
        if kind is not None:
            self._over.set()  # the client that is being trained is the last one
        started = time.perf_counter()
        self._thread.join()
        self._thread, self.waited_s = None, time.perf_counter() - started

    def forget(self, client: int) -> None:
        """The client's message does not count: it begins its next round with what it kept before."""
        self._updates = {key: update for key, update in self._updates.items() if key[0] != client}

    def commit(self) -> None:
        """The round has succeeded."""
        self._trainer.ready, self._updates = self._updates, {}

    def rollback(self) -> None:
        """The round has failed."""
        self._trainer.ready, self._updates = {}, {}
