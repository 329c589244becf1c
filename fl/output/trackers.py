"""Rounds told to experiment trackers, beside metrics.csv: TensorBoard, and all that Accelerate has a tracker for."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compression.spec import nearest
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.files import write_json

PROJECT = "leanfed"
"""The project (W&B) or experiment (MLflow) that runs are told under."""
_IDS = "trackers.json"
_MLFLOW_URI = "MLFLOW_TRACKING_URI"
# Where the package is not called like its tracker, or Accelerate wants another version.
_PACKAGES = {"tensorboard": "'leanfed[track]'", "comet_ml": "comet-ml", "aim": "'aim<4'"}


def check_trackers(config: Config) -> None:
    """Refuse trackers that are unknown or not installed, before a run starts. Raises ConfigError."""
    for name in _names(config):
        option = "--tensorboard" if config.tensorboard and name == "tensorboard" else f"--track {config.track}"
        if name == "tensorboard":
            installed = importlib.util.find_spec("tensorboard") is not None
        else:
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
            from accelerate.utils import LoggerType

            known = sorted(LOGGER_TYPE_TO_CLASS)
            if name not in known:
                raise ConfigError(f"{option}: there is no tracker '{name}'{nearest(name, known)}")
            # What a program has registered itself is there.
            own = name not in {each.value for each in LoggerType}
            installed = own or name in {str(each) for each in get_available_trackers()}
        if not installed:
            package = _PACKAGES.get(name, name)
            raise ConfigError(f"{option}: the package of '{name}' is not installed: pip install {package}")


def _names(config: Config) -> list[str]:
    named = [] if config.track == "none" else config.track.split("+")
    return list(dict.fromkeys([*(["tensorboard"] if config.tensorboard else []), *named]))


class Trackers:
    """All trackers of a run; made on rank 0 only.

    A tracker is told, never asked: nothing of the run depends on it. One that fails, at any time (no network, no
    account), is left out from then on with a warning, and the run goes on: metrics.csv has everything.
    """

    def __init__(self, config: Config, folder: Path, first_round: int) -> None:
        """Start the trackers that `config` names for the run in `folder`, which begins at round `first_round`.

        A W&B or MLflow run that was begun for this folder is continued.
        """
        self._folder = folder.resolve()
        self._last = first_round
        self._live: dict[str, Any] = {}
        self._undo = contextlib.ExitStack()
        options = {name: value for name, value in dataclasses.asdict(config).items() if name != "resume"}
        ids = self._read_ids()
        for name in _names(config):
            self._guard(name, functools.partial(self._start, name, options, ids, first_round))
        if ids:
            write_json(self._folder / _IDS, ids)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Tell a row of metrics.csv: every number is a scalar at the step `metrics["round"]`; empty cells are none."""
        self._last = metrics["round"]
        values = {name: value for name, value in _numbers(metrics).items() if name != "round"}
        for name, tracker in list(self._live.items()):
            self._guard(name, functools.partial(tracker.log, values, step=self._last))

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Tell the numbers of summary.json as `summary/NAME`, at the step of the last round."""
        values = {f"summary/{name}": value for name, value in _numbers(summary).items()}
        for name, tracker in list(self._live.items()):
            self._guard(name, functools.partial(tracker.log, values, step=self._last))

    def close(self) -> None:
        """Finish all trackers."""
        for name, tracker in list(self._live.items()):
            self._guard(name, tracker.finish)
        self._live.clear()
        self._undo.close()

    def _start(self, name: str, options: dict[str, Any], ids: dict[str, str], first_round: int) -> None:
        if name == "tensorboard":
            tracker: Any = TensorBoardLog(self._folder / FOLDER, first_round)
        else:
            tracker = self._accelerate_tracker(name, ids.get(name))
        self._live[name] = tracker
        tracker.start()
        if name not in ids:  # MLflow refuses options that change, as --rounds may
            tracker.store_init_configuration(options)
        if name == "mlflow":
            ids[name] = tracker.tracker.info.run_id
        if name == "wandb":
            ids[name] = tracker.tracker.id

    def _accelerate_tracker(self, name: str, known: str | None) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self._undo.callback(_accelerate_state())
        folder, run = str(self._folder), self._folder.name
        by_name: dict[str, dict[str, Any]] = {
            "wandb": {"name": run, "dir": folder, "id": known, "resume": "allow"},
            "mlflow": {"run_name": run, "run_id": known},
            "dvclive": {"dir": f"{folder}/dvclive"},
            "swanlab": {"experiment_name": run, "logdir": f"{folder}/swanlab"},
            "trackio": {"name": run, "resume": "allow"},
        }
        keywords = by_name.get(name, {})
        if name == "mlflow" and _MLFLOW_URI not in os.environ:
            os.environ[_MLFLOW_URI] = f"sqlite:///{folder}/mlflow.db"
            self._undo.callback(os.environ.pop, _MLFLOW_URI, None)
            keywords["logging_dir"] = (self._folder / "mlartifacts").as_uri()
        kind = LOGGER_TYPE_TO_CLASS[name]
        places = (folder,) if kind.requires_logging_directory else ()
        return kind(PROJECT, *places, **keywords)

    def _guard(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a tracker's package may raise, it is not worth a run
            tracker = self._live.pop(name, None)
            with contextlib.suppress(Exception):
                tracker.finish()
            words = f"tracker {name} is left out from now on: {type(error).__name__}: {error}"
            logging.getLogger("leanfed").warning("%s", words)
            warnings.warn(words, stacklevel=2)

    def _read_ids(self) -> dict[str, str]:
        try:
            return dict(json.loads((self._folder / _IDS).read_text()))
        except (OSError, ValueError):
            return {}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _accelerate_state() -> Callable[[], None]:
    """Accelerate's trackers need its process state. Make one if the engine has not; returns what undoes that.

    This is rank 0 alone, in a process group that exists by now if there is to be one, so nothing is exchanged.
    """
    import torch
    from accelerate.state import PartialState

    if PartialState._shared_state:
        return lambda: None
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="OMP_NUM_THREADS")
        PartialState(cpu=True)
    torch.set_num_threads(threads)  # it chooses a count of its own, and other threads mean other bits
    return PartialState._reset_state


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
