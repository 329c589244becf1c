"""Virtual time of whole runs. Oracle: the run itself on other ranks, or uninterrupted; sums of its own columns."""

import json
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError
from tests.end_to_end.replay import check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS, assert_same_run, stop_after
from tests.support import resume_here, rows, run_here

_RUNS: dict[str, dict[str, Any]] = {
    "mix": {"profiles": "mix:good=0.5+2g=0.5,compute=1e8..1e9"},
    "shared": {"profiles": "pr-fl", "server_up_limit": 1e5, "server_down_limit": 2e5, "uplink": "none"},
    "smaller": {
        "profiles": "fair",
        "prune": "structured:0",
        "capabilities": "groups:1.0x1+0.3x3",
        "model": "lenet5",
        "local_steps": 3,
    },
    "equal": {
        "profiles": "mix:good=0.5+2g=0.5,compute=1e8..1e9",
        "prune": "structured:0",
        "capabilities": "equal_time:0.1",
        "model": "lenet5",
    },
    "online": {
        "profiles": "mix:good=0.5+2g=0.5,compute=1e8..1e9",
        "prune": "structured:0",
        "capabilities": "online:0.1",
        "model": "lenet5",
        "uplink": "topk:0.3",
        "uplink_shares": "online:0.2",
    },
    "sparse": {"profiles": "poor_3g,sparse", "prune": "magnitude:0.9", "model": "lenet5"},
    "dense": {"profiles": "poor_3g", "prune": "magnitude:0.9", "model": "lenet5"},
}
_ALL = {name: {**OPTIONS, "rounds": 6, "lr_schedule": "constant", **options} for name, options in _RUNS.items()}
_VIRTUAL = ("start_s", "ready_s", "sent_s", "arrive_s")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _ALL)


def test_two_ranks_have_the_same_time(whole: Path, tmp_path: Path) -> None:
    """Model, metrics, bytes, and every virtual second."""
    check_two_ranks(tmp_path, _ALL, whole)


@pytest.mark.parametrize("name", ["mix", "shared", "online"])
def test_a_run_that_failed_goes_on(name: str, whole: Path, tmp_path: Path) -> None:
    """In the middle: the clock goes on where it stood, and so do the draws of the links."""
    stop_after(tmp_path, name, 3, **_ALL[name])
    resume_here(tmp_path, name)
    assert_same_run(tmp_path / name, whole / name)


def test_a_round_ends_with_its_last_arrival(whole: Path) -> None:
    """Exactly; and it begins where the one before ended."""
    for name in _RUNS:
        before = 0.0
        for row in rows(whole / name):
            times = [each for each in rows(whole / name, "clients") if each["round"] == row["round"]]
            assert max(float(each["arrive_s"]) for each in times) == float(row["virtual_time_s"])
            assert all(float(each["start_s"]) == before for each in times)
            assert all(sorted(_VIRTUAL, key=lambda c, e=each: float(e[c])) == list(_VIRTUAL) for each in times)
            before = float(row["virtual_time_s"])


def test_slower_clients_hold_less(whole: Path) -> None:
    """Fast clients hold everything and slow ones less, and the uplink of what is held shows it."""
    able = json.loads((whole / "equal" / "partition.json").read_text())["capabilities"]
    assert max(able) == 1.0
    assert min(able) < 0.6
    sent = {int(row["client"]): int(row["uplink_bytes"]) for row in rows(whole / "equal", "clients")}
    slow, fast = (pick(sent, key=lambda client: able[client]) for pick in (min, max))
    assert sent[slow] < sent[fast]


def test_shares_that_were_learnt_are_told(whole: Path) -> None:
    """Rows say what each client took, the log what changed; every change in a row is in the log."""
    log = (whole / "online" / "run.log").read_text()
    for name in ("capability", "uplink_share"):
        seen: dict[str, float] = {}
        for row in rows(whole / "online", "clients"):
            share = float(row[name])
            if share != seen.get(row["client"], 1.0):
                assert f"{row['client']} {seen.get(row['client'], 1.0):g} to {share:g}" in log
            seen[row["client"]] = share
        assert min(seen.values()) < 1.0
        assert f"the {name.replace('_', ' ')} changes" in log


def test_who_is_not_up_starts_when_it_is(tmp_path: Path) -> None:
    """One client from second 5 on, the other from second 0: the round of both begins at 0 for one and at 5 for the other,
    and the next when both are through. A buffer takes the first one twice meanwhile."""
    (tmp_path / "up.csv").write_text("client,first_s,last_s\n0,0,1000\n1,5,1000\n")
    options = {**OPTIONS, "clients": 2, "clients_per_round": 2, "rounds": 2, "lr_schedule": "constant"}
    for name, mode in (("sync", "sync"), ("buffered", "buffered:2")):
        run_here(tmp_path, name, **options, mode=mode, profiles="good", sampling=str(tmp_path / "up.csv"))
    each = rows(tmp_path / "sync", "clients")
    ends = float(rows(tmp_path / "sync")[0]["virtual_time_s"])
    assert [float(row["start_s"]) for row in each] == [0.0, 5.0, ends, ends]
    assert ends > 5.0
    assert {row["client"] for row in rows(tmp_path / "buffered", "clients")} == {"0"}


def test_a_mask_shortens_computing_only_where_it_is_said_to(whole: Path) -> None:
    """The same bytes; a smaller model takes less time for its steps than a whole one."""
    time = {name: float(rows(whole / name)[-1]["virtual_time_s"]) for name in ("sparse", "dense")}
    assert time["sparse"] < time["dense"]
    works = {
        each["client"]: float(each["sent_s"]) - float(each["ready_s"]) for each in rows(whole / "smaller", "clients")
    }
    assert works["3"] < 0.5 * works["0"]


def test_without_profiles_there_is_no_time(tmp_path: Path) -> None:
    """The columns are there, and empty."""
    run_here(tmp_path, "plain", **{**OPTIONS, "rounds": 1})
    assert rows(tmp_path / "plain")[0]["virtual_time_s"] == ""
    assert rows(tmp_path / "plain", "clients")[0]["arrive_s"] == ""


def test_a_profile_that_is_none_is_refused(tmp_path: Path) -> None:
    """In one sentence, before anything is written."""
    with pytest.raises(ConfigError, match="did you mean 'satellite'"):
        run_here(tmp_path, "run", profiles="satelite")
    assert not list(tmp_path.iterdir())
