"""Buffered and asynchronous rounds across sites, whose answers come in an order that the test gives. Oracle: the simulated
run in which clients arrive in that order."""

import json
import math
import shutil
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fl.clock.simulator import Arrival
from fl.comm.message import Rejection
from fl.common.errors import RoundError
from fl.deploy.protocol import Outcome, SiteJob
from fl.output.record import TIMES as VIRTUAL_TIMES
from fl.rounds.schedules import Arrived
from fl.rounds.timed import TimedRounds
from tests.fl.deploy.test_sites import OPTIONS, Here
from tests.support import TIMES, rows, run_here

pytestmark = pytest.mark.slow

GIVEN: dict[str, Any] = {
    **OPTIONS,
    **{"clients_per_round": 3, "rounds": 6, "mode": "buffered:2", "uplink": "topk:0.1", "downlink": "topk:0.1"},
}
_NOT_THERE = (*TIMES, *VIRTUAL_TIMES, "virtual_time_s", "engine_bytes")


class Arriving(Here):
    """The next answer is that of the first client in `order` that is left; then those of whoever was asked first."""

    def __init__(self, folder: Path, options: Mapping[str, Any], order: Iterable[int] = ()) -> None:
        super().__init__(folder, options)
        self.order = deque(order)

    def receive(self, patience_s: float = math.inf) -> tuple[int, Outcome] | None:
        if self.order:
            client = self.order.popleft()
            job = next(job for job in self._jobs if job.client == client)
            self._jobs.remove(job)
            self._jobs.appendleft(job)
        return super().receive(patience_s)


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clients in the order in which they arrive."""
    arrived: list[int] = []
    take = TimedRounds._take

    def taking(self: TimedRounds, arrival: Arrival) -> Arrived | None:
        arrived.append(arrival.client)
        return take(self, arrival)

    monkeypatch.setattr(TimedRounds, "_take", taking)
    return arrived


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "buffered:2", "uplink": "topk:0.05+log3+zstd", "staleness": "poly:0.5", "server": "fedadam"},
        {"mode": "async:0.6", "model": "tests.user_code:norm_model", "uplink": "int8", "staleness": "hinge:1,2"},
        {"mode": "buffered:3,latest", "local_state": "keep", "optimizer": "adamw", "lr": 0.001, "uplink_warmup": 3},
    ],
    ids=lambda options: str(options["mode"]),
)
def test_same_bits(tmp_path: Path, options: dict[str, Any], order: list[int]) -> None:
    """The same model, bytes and staleness; and the bytes are those that were really sent."""
    given = {**GIVEN, **options}
    run_here(tmp_path, "here", **given, profiles="mix:good=0.5+2g=0.5,compute=1e7..1e9")
    simulated = list(order)
    engine = Arriving(tmp_path, given, simulated)
    summary = engine.run("there")
    assert order == simulated * 2
    simulated_model, final = (load_file(tmp_path / name / "final_model.safetensors") for name in ("here", "there"))
    assert all(torch.equal(tensor, final[name]) for name, tensor in simulated_model.items())
    for table in ("metrics", "clients"):
        here, there = (rows(tmp_path / name, table, _NOT_THERE) for name in ("here", "there"))
        assert here == there
    assert len({row["staleness"] for row in rows(tmp_path / "there", "clients")}) > 2
    assert not any(row["virtual_time_s"] for row in rows(tmp_path / "there"))
    assert summary["total_engine_bytes"] == 0
    sent = sum(section.numel() for job in engine.sent for section in job.sections.values())
    assert sent == summary["total_downlink_bytes"]
    ended = {job.client for job in engine.sent if job.ends}
    last = [row for row in rows(tmp_path / "there", "clients") if row["round"] == "5" and row["samples"] != "0"]
    assert ended == {int(row["client"]) for row in last}
    for client in ended:
        (model,) = (tmp_path / f"site-{client}").rglob("final_model.safetensors")
        assert load_file(model).keys() == final.keys()
        assert all(torch.equal(tensor, final[name]) for name, tensor in load_file(model).items())


class Stopped(Arriving):
    """The server is gone when all of `order` have arrived, and another is to."""

    def receive(self, patience_s: float = math.inf) -> tuple[int, Outcome] | None:
        if not self.order:
            raise RuntimeError("power is gone")
        return super().receive(patience_s)


THREE: dict[str, Any] = {**GIVEN, "clients": 3, "mode": "buffered:3", "rounds": 4, "min_clients": 1}


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    """A server is gone in round 1, when clients 0 and 2 are at work since round 0, and client 0 has arrived since and
    trained once more. Client 0 goes on from the residual that counts in the checkpoint. Oracle: the run in which these
    two fail in round 1, and are as if they had not been asked."""

    class Failing(Arriving):
        def outcome(self, job: SiteJob) -> Outcome:
            return (
                Rejection(job.client, "fails") if (job.client, job.number) in ((0, 2), (2, 0)) else super().outcome(job)
            )

    begins, goes_on = [0, 0, 1], [1, 2, 0, 0, 2, 1, 1, 0, 2]
    with pytest.raises(RuntimeError, match="power is gone"):
        Stopped(tmp_path / "stopped", THREE, [*begins, 0, 0]).run("run")
    (states,) = (tmp_path / "stopped" / "site-0").rglob("site.json")
    assert json.loads(states.read_text())["states"].keys() == {"2", "3", "4"}
    resumed = Arriving(tmp_path / "stopped", THREE, goes_on).run("run", resume="auto")
    here = Failing(tmp_path / "failing", THREE, [*begins, 0, 2, *goes_on]).run("run")
    assert resumed["model_sha256"] == here["model_sha256"]
    table = rows(tmp_path / "stopped" / "run", "clients")
    given_up = [
        (row["client"], int(row["uplink_bytes"])) for row in table if (row["round"], row["samples"]) == ("1", "0")
    ]
    assert given_up == [("0", 0), ("2", 0)]


def test_a_site_that_lost_its_copy_of_the_model(tmp_path: Path) -> None:
    """It is asked anew, from the version of the moment, and the ledger charges all of the model; what was sent before is
    the engine's."""

    class Loses(Arriving):
        lost: SiteJob | None = None

        def outcome(self, job: SiteJob) -> Outcome:
            if self.lost is None and (job.client, job.since, job.version) == (1, 0, 1):
                self.lost = job
                shutil.rmtree(self.site(job))
            return super().outcome(job)

    engine = Loses(tmp_path, THREE, [0, 0, 1, 2, 0, 0, 1])
    summary = engine.run("run")
    assert (tmp_path / "run" / "run.log").read_text().count("the site of client 1 has lost its copy") == 1
    assert engine.lost is not None
    in_vain = sum(section.numel() for section in engine.lost.sections.values())
    assert summary["total_engine_bytes"] == in_vain
    sent = sum(section.numel() for job in engine.sent for section in job.sections.values())
    assert sent - in_vain == summary["total_downlink_bytes"]
    jobs = [(job.since, job.version) for job in engine.sent if job.client == 1]
    assert jobs[:3] == [(-1, 0), (0, 1), (-1, 2)]
    assert [row["staleness"] for row in rows(tmp_path / "run", "clients") if row["client"] == "1"][1] == "0"


def test_a_site_that_comes_back(tmp_path: Path) -> None:
    """Client 2 fails, and is gone. It is not asked, until its site is back while the others are at work: then at once."""

    class Away(Arriving):
        is_away = False
        waited = 0

        def connected(self, clients: Sequence[int], least: int) -> list[int]:
            return [client for client in super().connected(clients, least) if client != 2 or not self.is_away]

        def outcome(self, job: SiteJob) -> Outcome:
            if (job.client, job.number) == (2, 0):
                self.is_away = True
                return Rejection(2, "it is gone")
            return super().outcome(job)

        def receive(self, patience_s: float = math.inf) -> tuple[int, Outcome] | None:
            if self.order or not self.is_away:
                return super().receive(patience_s)
            assert patience_s < math.inf
            assert [job.client for job in self.sent].count(2) == 1
            self.waited, self.is_away = len(self.sent), False
            return None

    engine = Away(tmp_path, THREE, [2, 0, 1, 0, 1, 0])
    engine.run("run")
    assert engine.sent[engine.waited].client == 2
    table = rows(tmp_path / "run")
    assert [(row["clients"], row["rejected"]) for row in table] == [("3", "1"), *[("3", "0")] * 3]


def test_too_few_sites(tmp_path: Path) -> None:
    """One sentence ends the run when a step begins."""

    class Gone(Arriving):
        def connected(self, clients: Sequence[int], least: int) -> list[int]:
            return list(clients) if len(self.sent) < 5 else list(clients)[:1]

    with pytest.raises(RoundError, match="round 1: 1 clients can be asked, not the --min-clients 2"):
        Gone(tmp_path, {**THREE, "min_clients": 2}).run("run")
