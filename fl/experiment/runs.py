"""The matrix of runs, one after another; what is finished is not repeated, what was interrupted goes on."""

import dataclasses
import platform
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from compression.errors import NonFiniteError
from fl.common.config import Config, stored_options
from fl.common.errors import ConfigError, DataError, RoundError
from fl.common.files import disk_told, write_json
from fl.common.paths import expanded
from fl.common.ranks import Ranks, join_ranks
from fl.common.terminal import try_to_write
from fl.output.checkpoint import saved_rounds
from fl.run.checks import resolve
from fl.run.loop import run as run_to_the_end
from fl.training.engine import choose_engine
from fl.training.engine.deepspeed_config import reconcile
from fl.training.engine.precision import resolve_precision

from .matrix import Run, choose, matrix
from .options import first_difference
from .results import Results, read_results
from .scores import check_scores
from .spec import Experiment


def run_experiment(
    experiment: Experiment,
    *,
    data_dir: str = "data",
    output_dir: str = "outputFolder",
    threads: int | None = None,
    results: str | None = None,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Results | None:
    """Do the runs that are not finished, then write and return the results of all that are (None on ranks other than 0).

    Runs go to `output_dir`/NAME, results to the folder `results` (default: the same). `only` and `seeds` choose arms and
    seeds (default: all). Works under any launcher, all ranks calling it. ConfigError, before the first run, if an option
    cannot work or a folder holds a run with other options; DataError names the run. A run that diverges, or whose client
    fails, does not stop the others: RoundError or NonFiniteError name it in the end, when the results are written.
    """
    runs = matrix(experiment, data_dir=data_dir, output_dir=output_dir, threads=threads)
    chosen = choose(experiment, runs, only, seeds)
    target_folder = expanded(results if results is not None else str(Path(output_dir) / experiment.name))
    # One group for all runs: to meet again for each takes time.
    with join_ranks(runs[0].config) as ranks:
        finished = _finished(runs, target_folder, ranks)
        check_scores(experiment, [run for run in chosen if run not in finished])
        failed: list[RoundError | NonFiniteError] = []
        with tqdm(total=len(chosen), unit="run", disable=not ranks.is_server, desc=experiment.name) as bar:
            for run in chosen:
                bar.set_postfix_str(run.folder.name)
                if run not in finished:
                    try:
                        _execute(run, ranks)
                    except (RoundError, NonFiniteError) as error:
                        failed.append(error)
                    if ranks.is_server:
                        read_results(experiment, runs, target_folder).write_tables()
                elif ranks.is_server and not (run.folder / "report.html").exists():
                    _draw(run)
                bar.update()
        everything = _write_results(experiment, runs, target_folder) if ranks.is_server else None
        if failed:
            raise type(failed[0])("; ".join(map(str, failed)))
        return everything


def _write_results(experiment: Experiment, runs: tuple[Run, ...], folder: Path) -> Results:
    results = read_results(experiment, runs, folder)
    results.write_tables()
    if results.rows:
        from .report import write_report

        try_to_write(
            "figure or report of the experiment", lambda: write_report(results), "the same command writes them"
        )
    return results


def _draw(run: Run) -> None:
    """The report of a run that was killed between its last round and this."""
    from fl.output.report import try_report

    try_report(run.folder, "the same command draws them", figures=run.config.figures)


def _finished(runs: tuple[Run, ...], results: Path, ranks: Ranks) -> list[Run]:
    """The runs that are not to be repeated: rank 0 looks, all ranks learn; collective. ConfigError as `_is_finished`."""
    table = torch.zeros(len(runs) + 1, dtype=torch.int64)
    problem = ConfigError("rank 0 refuses the experiment and says why")
    if ranks.is_server:
        try:
            results.mkdir(parents=True, exist_ok=True)
            for position, run in enumerate(runs):
                table[position] = _is_finished(run, ranks)
        except OSError as error:
            problem, table[-1] = ConfigError(f"{results} cannot be made into a folder ({error.strerror})"), 1
        except ConfigError as error:
            problem, table[-1] = error, 1
    *flags, refused = ranks.sum(table).tolist()
    if refused:
        raise problem
    return [run for run, flag in zip(runs, flags, strict=True) if flag]


def _is_finished(run: Run, ranks: Ranks) -> bool:
    """Whether the run's folder holds its result; ConfigError if it holds another run, or the options cannot work."""
    try:
        wanted = _resolve(run, ranks)
    except ConfigError as error:
        raise ConfigError(f"arms, '{run.arm.name}': {error}") from None
    ended = (run.folder / "summary.json").exists()
    if not ended and not saved_rounds(run.folder):
        return False  # nothing there, or a run that failed before it had anything to keep
    stored = stored_options(run.folder)
    name = first_difference(stored, wanted)
    if name is not None:
        raise ConfigError(
            f"{run.folder} holds a run with {name} {getattr(stored, name)}, but this experiment means "
            f"{name} {getattr(wanted, name)}: give the experiment another name, or delete that folder"
        )
    return ended


def _resolve(run: Run, ranks: Ranks) -> Config:
    """The run's options as its config.json will hold them, but for what depends on data or on `accelerate launch`."""
    config = reconcile(run.config, run.explicit)
    threads = config.threads
    assert threads is not None  # set by `matrix`
    config = resolve(config, world_size=ranks.world_size, threads=threads, explicit=run.explicit)
    engine, precision = choose_engine(config, ranks.launcher), config.precision
    if engine != "accelerate":
        device = ranks.device if config.device == "auto" else torch.device(config.device)
        precision = resolve_precision(precision, device)
    return dataclasses.replace(config, engine=engine, precision=precision)


def _execute(run: Run, ranks: Ranks) -> None:
    try:
        if ranks.is_server:
            with disk_told(run.folder, lambda: "the same command goes on"):
                run.folder.mkdir(parents=True, exist_ok=True)
                write_json(run.folder / "machine.json", {"cpu": _cpu_name()})
        run_to_the_end(run.config, explicit=run.explicit)
    except (ConfigError, DataError, RoundError, NonFiniteError) as error:
        raise type(error)(f"arm '{run.arm.name}', seed {run.seed}: {error}") from None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
