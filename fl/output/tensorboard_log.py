"""Rounds as TensorBoard event files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "tensorboard"
"""The folder of the event files inside the run folder."""


class TensorBoardLog:
    """Writes the event files of a run, with the methods of Accelerate's trackers.

    Values are rounded to float32: TensorBoard can store doubles, but its default reader then shows nothing.
    """

    def __init__(self, folder: Path, first_round: int) -> None:
        """Write to `folder`; what its files tell of `first_round` and later rounds is void from now on."""
        self._folder = folder
        self._first_round = first_round
        self._writer: Any = None

    def start(self) -> None:
        """Open an event file beside those that are there."""
        from torch.utils.tensorboard import SummaryWriter

        # Readers drop older events from this step on: those of rounds that are run again after a crash.
        self._writer = SummaryWriter(str(self._folder), purge_step=self._first_round)

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """The options as a table on TensorBoard's page of texts."""
        lines = ["| option | value |", "|---|---|", *(f"| {name} | `{value}` |" for name, value in values.items())]
        self._writer.add_text("options", "\n".join(lines), self._first_round)
        self._writer.flush()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One scalar each at `step`, on disk when this returns."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()
