"""Several runs that must replay: on two ranks, and stopped half-way and continued in one process."""

import json
from pathlib import Path
from typing import Any

from tests.end_to_end.test_resume import assert_same_run
from tests.support import TIMES, resume_here, rows, run_here, run_on_ranks

Runs = dict[str, dict[str, Any]]


def run_all_here(folder: Path, runs: Runs) -> Path:
    """Every run, uninterrupted, in this process: the oracle of the checks below."""
    for name, options in runs.items():
        run_here(folder, name, **options)
    return folder


def check_two_ranks(folder: Path, runs: Runs, whole: Path) -> None:
    """Two ranks end in the same model, metrics and bytes as `whole`."""
    run_on_ranks(2, folder, runs)
    for name in runs:
        assert_same_run(folder / name, whole / name)


def check_resumed(folder: Path, runs: Runs, whole: Path, *, ranks: int, stop: int) -> None:
    """`ranks` ranks run `stop` rounds, this process the rest: the same model, and the same rows.

    The first part's last round is evaluated even where the whole run's is not.
    """
    run_on_ranks(ranks, folder, {name: {**options, "rounds": stop} for name, options in runs.items()})
    for name, options in runs.items():
        resume_here(folder, name, rounds=options["rounds"])
        ours, theirs = (json.loads((each / name / "summary.json").read_text()) for each in (folder, whole))
        assert ours["model_sha256"] == theirs["model_sha256"], name
        judged = tuple(column for column in rows(folder / name)[0] if column.startswith(("val_", "test_")))
        ours, theirs = (rows(each / name, without=TIMES + judged) for each in (folder, whole))
        assert ours == theirs, name
        assert rows(folder / name)[stop:] == rows(whole / name)[stop:], name
        clients = [rows(each / name, "clients", (*TIMES, "rank")) for each in (folder, whole)]
        assert clients[0] == clients[1], name
