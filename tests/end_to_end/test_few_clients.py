"""Rounds in which few clients come back, or nobody starts. Oracle: rounds end, with the clients that can."""

from pathlib import Path

import pytest

from fl.common.errors import RoundError
from tests.end_to_end.test_resume import OPTIONS
from tests.support import rows, run_here

_FAST, _SLOW_LINK = "1e12,1e9,1e9,0,0,0", "1e12,1e9,1e9,5,0,0"


def _links(folder: Path, *lines: str) -> str:
    header = "client,compute_flops,up_bytes,down_bytes,latency_s,loss,jitter"
    body = [f"{client},{line}" for client, line in enumerate(lines)]
    (folder / "links.csv").write_text("\n".join([header, *body, ""]))
    return str(folder / "links.csv")


_TINY = {**OPTIONS, "clients": 4, "rounds": 6, "lr_schedule": "constant", "checkpoint_every": 0}


def test_a_round_that_begins_anew_asks_others(tmp_path: Path) -> None:
    """One of four clients takes 10 s, longer than the server waits: rounds end, and it never arrives late."""
    links = _links(tmp_path, _SLOW_LINK, _FAST, _FAST, _FAST)
    options = {**_TINY, "clients_per_round": 1, "profiles": links, "late": "carry", "timeout": 2.0}
    for name, deadline in (("short", 0.5), ("long", 30.0)):
        run_here(tmp_path, name, **options, deadline=deadline)
        each = rows(tmp_path / name, "clients")
        assert {row["client"] for row in each if row["arrive_s"]} <= {"1", "2", "3"}
        assert len(rows(tmp_path / name)) == 6
    assert any(row["client"] == "0" for row in each)


def test_a_timeout_that_nobody_can_keep_ends_the_run(tmp_path: Path) -> None:
    """In one sentence, instead of waiting for ever."""
    for name, options in (("buffered", {"mode": "buffered:2"}), ("carried", {"deadline": 1.0, "late": "carry"})):
        with pytest.raises(RoundError, match=r"--timeout 0\.001 is too short"):
            run_here(tmp_path, name, **_TINY, profiles="poor_3g", timeout=0.001, **options)


def test_the_latest_update_of_few_clients(tmp_path: Path) -> None:
    """One place, and the largest loss first: those that are in the buffer already come last, so it fills."""
    options = {**_TINY, "clients_per_round": 1, "profiles": "lan", "mode": "buffered:3,latest"}
    run_here(tmp_path, "run", **options, sampling="power:4")
    for row in rows(tmp_path / "run"):
        each = [r for r in rows(tmp_path / "run", "clients") if r["round"] == row["round"]]
        assert len({r["client"] for r in each}) == len(each) == 3


def test_a_change_of_parts_waits_for_the_next_start(tmp_path: Path) -> None:
    """Four equal clients arrive at once, so nobody starts in rounds 1 to 3, among them that of the change."""
    options = {**_TINY, "clients_per_round": 4, "profiles": "lan", "uplink": "none", "local_steps": 2}
    pruned = {"prune": "magnitude:0.5", "capabilities": "groups:1.0x4", "prune_schedule": "oneshot:2"}
    run_here(tmp_path, "run", **{**options, **pruned, "mode": "buffered:1", "model": "lenet5"})
    sparsity = [float(row["sparsity"]) for row in rows(tmp_path / "run")]
    assert sparsity[0] == 0
    assert sparsity[-1] > 0.4
