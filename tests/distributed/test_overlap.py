"""`--overlap` between ranks: the next round's clients train while messages travel.

Oracles: the same run in one process, where nothing travels; and waits that never end unless both go on at once.
"""

import dataclasses
import json
import os
import signal
import threading
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from compression.phases import PHASES
from fl.comm.encoder import Encoder
from fl.comm.message import ClientReport
from fl.rounds.sync import SyncRounds
from fl.training.engine.plain import PlainEngine
from fl.training.trainer import ClientTrainer
from tests.distributed.two_ranks import assert_lost, said, two_ranks
from tests.end_to_end.test_resume import OPTIONS, assert_same_run
from tests.support import on_ranks, resume_here, rows, run_here

_ROUNDS = 6
_BASE: dict[str, Any] = {
    **OPTIONS,
    "model": "tests.user_code:dropping_model",
    "clients_per_round": 4,
    "rounds": _ROUNDS,
    "local_steps": 2,
    "server": "nesterov",
    "fragments": 3,
    "merge": 0.5,
    "overlap": True,
}
_RUNS: dict[str, dict[str, Any]] = {
    "all": {**_BASE, "optimizer": "adamw", "lr": 0.001, "local_state": "keep", "profile": True},
    "some": {**_BASE, "clients": 5, "clients_per_round": 3, "fragments": 2, "state_budget": "0", "profiles": "good"},
    "power": {**_BASE, "rounds": 3, "sampling": "power:4", "clients_per_round": 3},
    "buffers": {**_BASE, "rounds": 3, "model": OPTIONS["model"]},
}
_AHEAD = {"all": 5, "some": 3, "power": 0, "buffers": 0}
"""In how many rounds at least something is trained ahead."""
_REFUSED = {**_BASE, "min_clients": 2}


def _is_ahead() -> bool:
    return threading.current_thread() is not threading.main_thread()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process, and of one in which rank 0 refuses a message."""
    folder = tmp_path_factory.mktemp("whole")
    for name, options in _RUNS.items():
        run_here(folder, name, **options)
    with pytest.MonkeyPatch.context() as patch:
        _cut(patch)
        run_here(folder, "refused", **_REFUSED)
    return folder


def _cut(patch: pytest.MonkeyPatch) -> None:
    """Client 1's payload of round 2 lacks its last byte, and is refused where it arrives."""
    encode = Encoder.encode

    def cutting(self: Any, job: Any, *rest: Any) -> Any:
        message, *others = encode(self, job, *rest)
        if (job.client, job.number) == (1, 2):
            sections = {**message.sections, "update": message.sections["update"][:-1]}
            sizes = {name: section.numel() for name, section in sections.items()}
            message = dataclasses.replace(message, report=dataclasses.replace(message.report, sizes=sizes))
            message = dataclasses.replace(message, sections=sections)
        return message, *others

    patch.setattr(Encoder, "encode", cutting)


def _run_all(rank: int, world_size: int, folder: Path) -> None:
    """Every run, with the numbers of the rounds that this rank has trained ahead, in whole or in part."""
    train, ahead, trained = ClientTrainer._train, set(), Counter()

    def watched(self: Any, job: Any, model: Any) -> Any:
        if _is_ahead():
            ahead.add(job.number)
        trained[job.client, job.number] += 1
        return train(self, job, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientTrainer, "_train", watched)
        for name, options in _RUNS.items():
            ahead.clear()
            trained.clear()
            run_here(folder, name, **options)
            (folder / f"{name}-{rank}.json").write_text(json.dumps(sorted(ahead)))
            assert set(trained.values()) == {1}, "everybody trains once"
        _cut(patch)
        trained.clear()
        run_here(folder, "refused", **_REFUSED)
        again = {key for key, times in trained.items() if times > 1}
        assert again == ({(1, 3)} if rank == 1 else set()), "what followed from the refused message is trained again"


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_bits_of_one_process(whole: Path, tmp_path: Path, ranks: int) -> None:
    """The same model, metrics and bytes: of all clients and of some, with states on disk, dropout, a message
    that is refused; and where the next round depends on the one that travels, nothing is trained ahead."""
    on_ranks(ranks, _run_all, tmp_path)
    for name, least in _AHEAD.items():
        assert_same_run(tmp_path / name, whole / name)
        ahead = [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(ranks)]
        assert max(map(len, ahead)) >= least, (name, ahead)
        assert least or not any(ahead), (name, ahead)
    assert_same_run(tmp_path / "refused", whole / "refused")
    assert [row["rejected"] for row in rows(tmp_path / "refused")] == [
        str(int(round_ == 2)) for round_ in range(_ROUNDS)
    ]
    _check_times(tmp_path / "all")


def _check_times(folder: Path) -> None:
    """Phases of two threads at once count once: they add up to the time of the round."""
    for row in rows(folder, "phases", ()):
        parts = [float(row[f"{name}_s"]) for name in (*PHASES, "other")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(float(row["time_s"]))
    for row in rows(folder, "metrics", ()):
        assert 0 < float(row["exchange_s"]) <= float(row["time_s"])


def _at_once(rank: int, world_size: int, folder: Path) -> None:
    """Rank 0 decodes a message of round r only when its training of round r + 1 has begun, and steps only when that of
    rank 1 has."""
    store = dist.distributed_c10d._get_default_store()
    began = {number: threading.Event() for number in range(_ROUNDS + 1)}
    train, receive, step = ClientTrainer._train, SyncRounds.receive, SyncRounds.step

    def training(self: Any, job: Any, model: Any) -> Any:
        if rank == 1 and not began[job.number].is_set():
            store.set(f"began {job.number}", "")
        began[job.number].set()
        return train(self, job, model)

    def receiving(self: Any, message: Any, number: int) -> None:
        if number + 1 < _ROUNDS:
            assert began[number + 1].wait(30), f"round {number + 1} does not begin while round {number} travels"
        receive(self, message, number)

    def stepping(self: Any, number: int, reports: list[ClientReport]) -> Any:
        if number + 1 < _ROUNDS:
            store.wait([f"began {number + 1}"], timedelta(seconds=30))
        return step(self, number, reports)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientTrainer, "_train", training)
        patch.setattr(SyncRounds, "receive", receiving)
        patch.setattr(SyncRounds, "step", stepping)
        run_here(folder, "run", **_BASE)
    assert not began[_ROUNDS].is_set()


def test_training_and_transfer_go_on_at_once(tmp_path: Path) -> None:
    """Without overlap the waits of `_at_once` would not end."""
    on_ranks(2, _at_once, tmp_path)


def _die_ahead(patch: pytest.MonkeyPatch) -> None:
    """The rank is killed while it trains round 3 ahead."""
    step = PlainEngine.step
    train = ClientTrainer._train
    number = [0]

    def training(self: Any, job: Any, model: Any) -> Any:
        number[0] = job.number
        return train(self, job, model)

    def stepping(self: Any, *batch: Any) -> Any:
        if number[0] == 3 and _is_ahead():
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *batch)

    patch.setattr(ClientTrainer, "_train", training)
    patch.setattr(PlainEngine, "step", stepping)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies_while_it_trains_ahead(whole: Path, tmp_path: Path, victim: int) -> None:
    """The other rank names it and how to go on; resumed in one process or on two ranks, the run ends in the same bits."""
    other = 1 - victim
    options = {**_RUNS["all"], "hang_timeout": 4}
    with two_ranks(tmp_path, victim, _die_ahead, **options) as processes:
        processes[other].join()
        assert processes[other].exitcode == 2
    told = said(tmp_path, other)
    assert_lost(told, victim)
    assert len(rows(tmp_path / "run")) == 2
    if victim:
        on_ranks(2, _resume, tmp_path)
    else:
        resume_here(tmp_path, "run")
    assert_same_run(tmp_path / "run", whole / "all")


def _resume(rank: int, world_size: int, folder: Path) -> None:
    resume_here(folder, "run")
