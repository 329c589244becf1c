"""Runs across sites, without an engine: every message becomes what an engine carries, and is read again. Oracle: the same
run in one process."""

import json
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from fl.comm.message import Message, Rejection
from fl.common.config import Config
from fl.common.errors import RoundError
from fl.deploy.options import at_site, read_table
from fl.deploy.protocol import Outcome, SiteJob, outcome_record, read_job, read_outcome
from fl.deploy.rounds import SiteRounds
from fl.deploy.site import do
from fl.rounds.sampling import make_sampler
from fl.run.loop import run
from fl.training.worker import Worker
from tests.support import QUICK, TIMES, no_figures, rows, run_here

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {
    "clients": 4,
    "rounds": 4,
    "limit_train": 160,
    "local_steps": 2,
    "batch_size": 16,
    "lr": 0.02,
}


class Here:
    """Sites in this process: each job is done when it is asked for, after `before` it."""

    def __init__(self, folder: Path, options: Mapping[str, Any], before: Callable[[SiteJob], object] = id) -> None:
        self.folder, self.options, self.before = folder, options, before
        self.carried_bytes = 0
        self.sent: list[SiteJob] = []
        self.rounds: SiteRounds | None = None
        self._jobs: deque[SiteJob] = deque()

    def connected(self, clients: Sequence[int], least: int) -> list[int]:
        assert least <= len(clients)
        return list(clients)

    def send(self, job: SiteJob) -> None:
        values, sections = job.record()
        self.carried_bytes += sum(map(len, sections.values()))
        self.sent.append(job)
        self._jobs.append(read_job((json.loads(json.dumps(values)), sections)))

    def receive(self) -> tuple[int, Outcome]:
        job = self._jobs.popleft()
        self.before(job)
        values, sections = outcome_record(self.outcome(job))
        self.carried_bytes += sum(map(len, sections.values()))
        return job.client, read_outcome(job.client, (json.loads(json.dumps(values)), sections))

    def outcome(self, job: SiteJob) -> Outcome:
        config, explicit = at_site(*read_table({**QUICK, **self.options}), {"threads": 1})
        return do(job, job.client, config, explicit, self.site(job))

    def site(self, job: SiteJob) -> Path:
        return self.folder / f"site-{job.client}"

    def run(self, name: str, **options: Any) -> dict[str, Any]:
        """The run of these options; its folder is `name`."""
        given = {**QUICK, **self.options, **options, "output_dir": str(self.folder), "run_name": name}
        with no_figures():
            summary = run(Config(**given), explicit=frozenset(given), make_rounds=self._make_rounds)
        assert self.rounds is not None
        assert not self.rounds.deliver()
        return summary

    def _make_rounds(self, worker: Worker) -> SiteRounds:
        sampler = make_sampler(worker.config, [len(part) for part in worker.parts])
        self.rounds = SiteRounds(worker, sampler, self)
        return self.rounds


def _same(folder: Path, *names: str) -> None:
    """These runs end in the same model and have the same tables, but for times and the engine."""
    models = [load_file(folder / name / "final_model.safetensors") for name in names]
    assert all(torch.equal(models[0][key], other[key]) for other in models[1:] for key in other)
    for table, other_than in (("metrics", (*TIMES, "engine_bytes")), ("clients", TIMES)):
        tables = [rows(folder / name, table, other_than) for name in names]
        assert tables[1:] == tables[:1] * (len(names) - 1)


@pytest.mark.parametrize(
    "options",
    [
        {"uplink": "topk:0.05+log3+zstd", "downlink": "topk:0.1+int8", "server": "fedadam"},
        {"uplink": "topk:0.05", "clients_per_round": 2, "rounds": 6, "downlink": "topk:0.05", "state_dtype": "bf16"},
        {"model": "tests.user_code:norm_model", "uplink": "int8", "downlink": "int8", "clients_per_round": 3},
        {"algorithm": "scaffold", "uplink": "topk:0.5", "error_feedback": "none", "momentum": 0.0},
        {"algorithm": "feddyn:0.1", "uplink": "none", "downlink": "none", "partition": "dirichlet:0.5"},
        {
            "local_state": "keep",
            "optimizer": "adamw",
            "lr": 0.001,
            "server": "nesterov",
            "lr_schedule": "cosine:warmup=2",
        },
        {"aggregate": "median", "profiles": "mix:good=0.5+2g=0.5", "sampling": "power:3", "clients_per_round": 2},
    ],
    ids=lambda options: next(iter(options)) + ":" + str(next(iter(options.values()))),
)
def test_same_bits(tmp_path: Path, options: dict[str, Any]) -> None:
    """The same model, metrics and bytes; and the bytes are those that were really sent."""
    given = {**OPTIONS, **options}
    run_here(tmp_path, "here", **given)
    engine = Here(tmp_path, given)
    summary = engine.run("there")
    _same(tmp_path, "here", "there")
    assert summary["total_engine_bytes"] == 0
    sent = sum(section.numel() for job in engine.sent for section in job.sections.values())
    assert sent == summary["total_downlink_bytes"]
    for job in engine.sent:
        if job.ends:
            (model,) = engine.site(job).rglob("final_model.safetensors")
            final = load_file(tmp_path / "there" / "final_model.safetensors")
            assert all(torch.equal(tensor, final[name]) for name, tensor in load_file(model).items())


def test_a_site_that_lost_its_copy_of_the_model(tmp_path: Path) -> None:
    """The client keeps nothing (no error feedback), so a site whose disk is lost in round 2 gets the whole model and the
    run ends in the same bits; the ledger charges that download."""
    given = {**OPTIONS, "uplink": "topk:0.1", "downlink": "topk:0.1", "error_feedback": "none"}
    run_here(tmp_path, "here", **given)

    def lose(job: SiteJob) -> None:
        if (job.client, job.number) == (1, 2) and job.since == 1:
            shutil.rmtree(engine.site(job))

    engine = Here(tmp_path, given, lose)
    engine.run("there")
    models = [load_file(tmp_path / name / "final_model.safetensors") for name in ("here", "there")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    downloads = [
        {(row["round"], row["client"]): int(row["downlink_bytes"]) for row in rows(tmp_path / name, "clients")}
        for name in ("here", "there")
    ]
    whole = downloads[0]["0", "1"]
    assert {at: each for at, each in downloads[1].items() if each != downloads[0][at]} == {("2", "1"): whole}
    assert int(rows(tmp_path / "there")[2]["engine_bytes"]) > 0, "what was sent in vain"
    assert (tmp_path / "there" / "run.log").read_text().count("the site of client 1 has lost its copy") == 1


def test_an_update_that_does_not_count_leaves_the_residual(tmp_path: Path) -> None:
    """A message that is damaged on its way is refused, and the round goes on. Oracle: the same client fails in the run of
    one process, where its residual is as before."""
    given = {**OPTIONS, "uplink": "topk:0.1", "min_clients": 3}

    class Damaging(Here):
        def outcome(self, job: SiteJob) -> Outcome:
            outcome = super().outcome(job)
            if (job.client, job.number) == (2, 1):
                assert isinstance(outcome, Message)
                outcome.sections["update"][:4] = 0
            return outcome

    class NotAsked(Here):
        def outcome(self, job: SiteJob) -> Outcome:
            return Rejection(2, "away") if (job.client, job.number) == (2, 1) else super().outcome(job)

    hashes = [kind(tmp_path / name, given).run("run")["model_sha256"] for name, kind in _named(Damaging, NotAsked)]
    assert hashes[0] == hashes[1]
    assert [row["rejected"] for row in rows(tmp_path / "Damaging" / "run")] == ["0", "1", "0", "0"]


def test_a_site_that_is_away_for_a_round(tmp_path: Path) -> None:
    """It is not asked, nor counted as failed however often, and takes part again with its residual. Oracle: the run in
    which it refuses every job of these rounds."""
    given = {**OPTIONS, "rounds": 6, "uplink": "topk:0.1", "min_clients": 3}

    class Away(Here):
        least: ClassVar[list[int]] = []

        def connected(self, clients: Sequence[int], least: int) -> list[int]:
            self.least.append(least)
            return [client for client in clients if client != 2 or len(self.least) not in (2, 3)]

    class Refusing(Here):
        def outcome(self, job: SiteJob) -> Outcome:
            return Rejection(2, "away") if job.client == 2 and job.number in (1, 2) else super().outcome(job)

    hashes = [kind(tmp_path / name, given).run("run")["model_sha256"] for name, kind in _named(Away, Refusing)]
    assert hashes[0] == hashes[1]
    assert [(row["clients"], row["rejected"]) for row in rows(tmp_path / "Away" / "run")] == [
        *(("4", "0"), ("3", "0"), ("3", "0")),
        *[("4", "0")] * 3,
    ]
    assert Away.least == [4, 3, 3, 3, 3, 3], "the first round waits for all"


def _named(*kinds: type[Here]) -> list[tuple[str, type[Here]]]:
    return [(kind.__name__, kind) for kind in kinds]


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    """A server that is gone after two rounds goes on from its checkpoint, and finds the sites' residuals. Oracle: the run
    that was not interrupted, but for the bytes of the model, which is sent whole once more."""
    given = {**OPTIONS, "uplink": "topk:0.05", "downlink": "topk:0.05"}
    run_here(tmp_path, "here", **given)

    def stop(job: SiteJob) -> None:
        if job.number == 2:
            raise RuntimeError("power is gone")

    with pytest.raises(RuntimeError, match="power is gone"):
        Here(tmp_path, given, stop).run("there")
    Here(tmp_path, given).run("there", resume="auto")
    both = [tmp_path / name for name in ("here", "there")]
    models = [load_file(folder / "final_model.safetensors") for folder in both]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    downloads = [[int(row["downlink_bytes"]) for row in rows(folder)] for folder in both]
    assert downloads[1] == [*downloads[0][:2], downloads[0][0], downloads[0][3]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"program": "leanfed 0"}, "the server runs leanfed 0, and this site leanfed"),
        ({"client": 9}, "there is no client 9 of 4"),
    ],
)
def test_a_site_that_cannot_do_a_job(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    """The reason is one sentence, and ends the run where every client must succeed."""

    class Other(Here):
        def outcome(self, job: SiteJob) -> Outcome:
            return super().outcome(SiteJob(**{**vars(job), **changes}))

    with pytest.raises(RoundError, match=reason):
        Other(tmp_path, OPTIONS).run("there")
