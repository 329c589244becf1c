"""Runs across sites, without an engine: every message becomes what an engine carries, and is read again. Oracle: the same
run in one process."""

import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fl.comm.message import Message, Rejection
from fl.common.config import Config, DataOptions
from fl.common.errors import ConfigError, RoundError
from fl.data import Schema, load_dataset
from fl.deploy.make import make_rounds
from fl.deploy.options import at_site, read_table
from fl.deploy.protocol import Outcome, SiteJob, outcome_record, read_job, read_outcome
from fl.deploy.rounds import SiteRounds
from fl.deploy.site import count_samples, do
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

    def receive(self, patience_s: float = math.inf) -> tuple[int, Outcome] | None:
        job = self._jobs.popleft()
        self.before(job)
        values, sections = outcome_record(self.outcome(job))
        self.carried_bytes += sum(map(len, sections.values()))
        return job.client, read_outcome(job.client, (json.loads(json.dumps(values)), sections))

    def outcome(self, job: SiteJob) -> Outcome:
        return do(job, job.client, *self._options(job.client), self.site(job))

    def survey(self, clients: int, schema: Schema) -> list[int]:
        found = [count_samples(client, *self._options(client), schema.to_json()) for client in range(clients)]
        assert all(isinstance(each, int) for each in found), found
        return [each for each in found if isinstance(each, int)]

    def node(self, client: int) -> dict[str, Any]:
        """The configuration of a client's node."""
        return {"threads": 1}

    def _options(self, client: int) -> tuple[Config, frozenset[str]]:
        return at_site(*read_table({**QUICK, **self.options}), self.node(client))

    def site(self, job: SiteJob) -> Path:
        return self.folder / f"site-{job.client}"

    def run(self, name: str, **options: Any) -> dict[str, Any]:
        """The run of these options; its folder is `name`."""
        given = {**QUICK, **self.options, **options, "output_dir": str(self.folder), "run_name": name}
        with no_figures():
            summary = run(
                Config(**given), explicit=frozenset(given), make_rounds=self._make_rounds, ask_sites=self.survey
            )
        assert self.rounds is not None
        assert not self.rounds.deliver()
        return summary

    def _make_rounds(self, worker: Worker) -> SiteRounds:
        self.rounds = make_rounds(worker, self)
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
        {"uplink_shares": "equal_time:0.1", "profiles": "mix:good=0.5+2g=0.5", "uplink": "topk:0.2"},
        {
            "uplink_shares": "online:0.1",
            "profiles": "mix:good=0.5+2g=0.5",
            "uplink": "topk:0.3",
            "clients_per_round": 3,
        },
        {"client_eval": 0.25, "uplink": "topk:0.2"},
        {
            "fragments": 3,
            "merge": 0.4,
            "clients_per_round": 2,
            "rounds": 6,
            "uplink": "topk:0.3",
            "downlink": "topk:0.3",
        },
        {"merge": 0.5, "overlap": True, "fragments": 2, "model": "tests.user_code:norm_model", "uplink": "int8"},
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


@pytest.mark.parametrize("returns", [1, 2])
def test_a_site_that_is_late(tmp_path: Path, returns: int) -> None:
    """Client 2 answers in no time for round 1, but before the next or in the middle of it. It is not asked before, its
    update does not count, and it has not failed. Oracle: the run in which it refuses that job, and is away meanwhile."""
    given = {**OPTIONS, "rounds": 5, "uplink": "topk:0.1", "downlink": "topk:0.05", "min_clients": 3, "deadline": 0.001}

    class Late(Here):
        gave_up = False

        def receive(self, patience_s: float = math.inf) -> tuple[int, Outcome] | None:
            comes = self.gave_up and self.sent[-1].number >= returns
            here = [job for job in self._jobs if comes or (job.client, job.number) != (2, 1)]
            if not here:
                assert patience_s < math.inf, "nobody else is to come"
                self.gave_up = True
                return None
            self._jobs.remove(here[0])
            self._jobs.appendleft(here[0])
            return super().receive(patience_s)

    class Refusing(Here):
        def outcome(self, job: SiteJob) -> Outcome:
            return Rejection(2, "late") if (job.client, job.number) == (2, 1) else super().outcome(job)

        def connected(self, clients: Sequence[int], least: int) -> list[int]:
            is_busy = returns == 2 and bool(self.sent) and self.sent[-1].number == 1
            return [client for client in clients if client != 2 or not is_busy]

    hashes = [kind(tmp_path / name, given).run("run")["model_sha256"] for name, kind in _named(Late, Refusing)]
    assert hashes[0] == hashes[1]
    metrics, clients = (rows(tmp_path / "Late" / "run", table) for table in ("metrics", "clients"))
    assert all(row["rejected"] == "0" and int(row["engine_bytes"]) >= 0 for row in metrics)
    late = [(row["round"], int(row["downlink_bytes"])) for row in clients if row["samples"] == "0"]
    assert [number for number, _ in late] == ["1"]
    assert late[0][1] > 0


def test_more_sites_than_needed(tmp_path: Path) -> None:
    """Three are asked, and the first two that answer count; the third is late, and free again when it has answered."""
    given = {**OPTIONS, "clients_per_round": 2, "over_select": 1.5, "min_clients": 1, "uplink": "topk:0.1"}
    Here(tmp_path, given).run("there")
    table = rows(tmp_path / "there", "clients")
    for number in range(4):
        counted = [row["samples"] != "0" for row in table if row["round"] == str(number)]
        assert (len(counted), sum(counted)) == (3, 2)


def test_a_model_whose_operations_cannot_be_counted(tmp_path: Path) -> None:
    """Real seconds need no count of them: with a deadline that nobody misses the run is the one without."""
    given = {**OPTIONS, "model": "tests.user_models:looking", "rounds": 2, "min_clients": 4}
    hashes = [
        Here(tmp_path / str(seconds), given).run("run", deadline=seconds)["model_sha256"] for seconds in (0.0, 1e6)
    ]
    assert hashes[0] == hashes[1]


def test_virtual_seconds_do_not_pass(tmp_path: Path) -> None:
    """Who is up in virtual time is not known where real seconds pass: refused before there is a run folder."""
    given = {**OPTIONS, "profiles": "good", "sampling": "diurnal:100s,0.5", "min_clients": 1}
    with pytest.raises(ConfigError, match=r"--sampling diurnal:100s,0\.5 goes by virtual seconds"):
        Here(tmp_path, given).run("run", deadline=10.0)
    assert not (tmp_path / "run").exists()


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


TABLE = "rows.csv,target=ill"


def write_tables(folder: Path, rows: Mapping[str, int]) -> None:
    """Tables of so many rows, each in a folder of its own; site-1 has nobody who is ill, and a column more."""
    for seed, (name, count) in enumerate(rows.items()):
        draw = np.random.default_rng(seed)
        age, dose = draw.normal(50 + seed, 10, count), draw.normal(seed, 1 + seed, count)
        ill = np.where((age > 50) & (name != "site-1"), "yes", "no")
        cells = zip(dose, age, draw.choice(["x", "y"], count), ill, draw.integers(0, 9, count), strict=True)
        (folder / name).mkdir(parents=True)
        (folder / name / "rows.csv").write_text(
            "dose,age,ward,ill,ours\n" + "".join(f"{a},{b},{c},{d},{e}\n" for a, b, c, d, e in cells)
        )


OWN: dict[str, Any] = {
    **{"model": "mlp", "partition": "sites", "clients": 2, "rounds": 3, "batch_size": 8, "uplink": "topk:0.2"},
    **{"limit_train": None, "local_steps": 3},
}


class Own(Here):
    """Sites with tables of their own."""

    def node(self, client: int) -> dict[str, Any]:
        return {"threads": 1, "data-dir": str(self.folder / f"site-{client}"), "dataset": f"csv:{TABLE}"}


def test_sites_with_data_of_their_own(tmp_path: Path) -> None:
    """Sites have 30 and 50 rows, of which the server has none. Oracle: the run in one process on the same samples, each
    site a group of them; that samples are read as the server's are is tests/fl/data/test_schema.py."""
    write_tables(tmp_path, {"server": 60, "site-0": 30, "site-1": 50})
    given = {**OWN, "dataset": f"csv:{tmp_path}/server/{TABLE},features=age+dose+ward"}

    class Lost(Own):
        schema: ClassVar[Schema]

        def survey(self, clients: int, schema: Schema) -> list[int]:
            Lost.schema = schema
            return super().survey(clients, schema)

    engine = Lost(tmp_path, given)
    engine.run("there")
    reads = [DataOptions(dataset=f"csv:{tmp_path}/site-{client}/{TABLE}") for client in range(2)]
    parts = [load_dataset(options, seed=0, schema=Lost.schema).train for options in reads]
    assert [len(part) for part in parts] == [30, 50]
    assert json.loads((tmp_path / "there" / "partition.json").read_text())["labels"] == [[30], [50]]
    tensors = {
        **{"x": torch.cat([part.x for part in parts]), "y": torch.cat([part.y for part in parts])},
        "groups": torch.repeat_interleave(torch.tensor([30, 50])),
    }
    torch.save(tensors, tmp_path / "samples.pt")
    here = {"dataset": "tests.user_code:samples_in_groups", "data_dir": str(tmp_path), "partition": "natural"}
    run_here(tmp_path, "here", **{**OWN, **here, "val_fraction": 0.0})
    models = [load_file(tmp_path / name / "final_model.safetensors") for name in ("here", "there")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    columns = ("uplink_bytes", "downlink_bytes", "train_loss")
    assert [[row[name] for name in columns] for row in rows(tmp_path / "there")] == [
        [row[name] for name in columns] for row in rows(tmp_path / "here")
    ]


def test_a_site_with_data_of_its_own_that_lost_its_folder(tmp_path: Path) -> None:
    """It is told again how to read its data. Oracle: the run in which nothing is lost; clients keep nothing."""
    write_tables(tmp_path, {"server": 60, "site-0": 30, "site-1": 50})
    given = {**OWN, "dataset": f"csv:{tmp_path}/server/{TABLE}", "error_feedback": "none"}

    class Loses(Own):
        def site(self, job: SiteJob) -> Path:
            return self.folder / f"kept-{self.loses}-{job.client}"

        def __init__(self, loses: bool) -> None:
            super().__init__(tmp_path, given, self._lose)
            self.loses = loses

        def _lose(self, job: SiteJob) -> None:
            if self.loses and (job.client, job.number) == (1, 1) and not job.schema:
                shutil.rmtree(self.site(job))

    hashes = [Loses(loses).run(f"loses-{loses}")["model_sha256"] for loses in (False, True)]
    assert hashes[0] == hashes[1]
    assert "site of client 1 has lost" in (tmp_path / "loses-True" / "run.log").read_text()


def test_data_of_their_own_need_sites(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--partition sites is for clients at sites of their own"):
        run_here(tmp_path, "here", partition="sites")
    assert not (tmp_path / "here").exists()
