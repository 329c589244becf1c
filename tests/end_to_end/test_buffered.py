"""Rounds without waiting. Oracles: synchronous rounds, the run itself on other ranks or interrupted, papers' formulas."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fl.comm.message import decode_model
from fl.common.errors import ConfigError
from fl.rounds.staleness import weight
from fl.rounds.timed import TimedRounds
from fl.run.loop import make_rounds
from tests.end_to_end.replay import check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS, assert_same_run
from tests.support import make_worker, on_ranks, resume_here, rows, run_here

_SLOW = {"profiles": "mix:good=0.5+2g=0.5,compute=1e8..1e9", "clients": 6, "clients_per_round": 4}
_FAIRLY_SLOW = "mix:good=0.5+poor_3g=0.5,compute=1e8..1e9"  # the fast come a few times while the slow come once
_RUNS: dict[str, dict[str, Any]] = {
    "buffered": {"mode": "buffered:2", "staleness": "poly:0.5", **_SLOW},
    "shared": {"mode": "buffered:3", "profiles": "pr-fl", "server_up_limit": 1e5, "uplink": "none", "downlink": "bf16"},
    "nova": {"mode": "buffered:2", "algorithm": "fednova", "partition": "quantity:0.5", **_SLOW},
    "levels": {
        "mode": "buffered:2",
        "prune": "structured:0",
        "capabilities": "groups:1.0x2+0.6x2+0.3x2",
        "recover": "schedule:3,2",
        "staleness": "poly:0.5",
        **_SLOW,
    },
    "masks": {
        "mode": "buffered:3",
        "prune": "magnitude:0.2,protect=vectors",
        "prune_schedule": "linear:0,6,2",
        "capabilities": "equal_time:0.2",
        "uplink": "topk:0.3+log3",
        **_SLOW,
    },
    "deadline, levels": {
        "deadline": 1.0,
        "prune": "width:1",
        "capabilities": "uniform:0.3,1",
        "partition": "labels:3",
        **_SLOW,
    },
    "levels of classes": {
        "mode": "buffered:2",
        "prune": "width:1",
        "capabilities": "uniform:0.3,1",
        "partition": "labels:3",
        **_SLOW,
    },
    "deadline": {"deadline": 1.0, **_SLOW},
    "carried": {"deadline": 1.0, "late": "carry", "staleness": "poly:1", **_SLOW},
    "first": {"over_select": 1.5, **_SLOW},
    "lost": {"mode": "buffered:2", "lost": 0.3, "timeout": 6.0, "uplink_warmup": 4, **_SLOW},
    "lost, deadline": {"deadline": 1.0, "lost": 0.6, **_SLOW, "clients_per_round": 2},
    "lost, carried": {"deadline": 0.5, "late": "carry", "lost": 0.2, "timeout": 4.0, **_SLOW},
    "latest": {
        "mode": "buffered:4,latest",
        "sampling": "diurnal:1s,0.5",
        **_SLOW,
        "clients_per_round": 6,
        "profiles": _FAIRLY_SLOW,
    },
    "learnt": {
        "mode": "buffered:4",
        "prune": "structured:0",
        "capabilities": "online:0.1",
        "uplink": "topk:0.3",
        "uplink_shares": "equal_time:0.2",
        **_SLOW,
        "profiles": _FAIRLY_SLOW,
    },
    "alike": {
        "mode": "async:0.5",
        "server": "fedavg",
        "profiles": "lan",
        "uplink": "none",
        "downlink": "none",
        "local_steps": 2,
        "clients_per_round": 4,
    },
    "lost, power": {"mode": "buffered:2", "sampling": "power:4", "lost": 0.3, "timeout": 3.0, **_SLOW},
    "statistics": {
        "mode": "buffered:2",
        "model": "tests.user_code:norm_model",
        "prune": "structured:0",
        "capabilities": "uniform:0.5,1",
        "sampling": "diurnal:1s,0.4",
        **_SLOW,
        "seed": 2,
    },
    "async": {"mode": "async:0.6", "staleness": "hinge:1,1", "server": "fedavg", **_SLOW},
}
_STOPS = {"alike": 2, "lost, power": 3}  # before rounds in which nobody trains
_ALL = {name: {**OPTIONS, "rounds": 8, "lr_schedule": "constant", **options} for name, options in _RUNS.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _ALL)


def test_two_ranks_end_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Model, metrics, bytes, arrivals and ages."""
    check_two_ranks(tmp_path, _ALL, whole)


@pytest.mark.parametrize("name", list(_RUNS))
def test_a_run_that_failed_goes_on(name: str, whole: Path, tmp_path: Path) -> None:
    """Stopped where some are on their way, trained and untrained: the queue goes on. What clients were given stays."""
    _stop_in_round(tmp_path, name, _STOPS.get(name, 4))
    resume_here(tmp_path, name)
    assert_same_run(tmp_path / name, whole / name)
    assert (tmp_path / name / "partition.json").read_text() == (whole / name / "partition.json").read_text()


def _stop_in_round(folder: Path, name: str, number: int) -> None:
    run = TimedRounds.run

    def failing(self: Any, at: int) -> Any:
        if at == number:
            raise OSError("stopped here")
        return run(self, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimedRounds, "run", failing)
        with pytest.raises(OSError, match="stopped here"):
            run_here(folder, name, **_ALL[name])


@pytest.mark.parametrize("profiles", ["none", "good"])
def test_a_buffer_of_all_equal_clients_is_synchronous(profiles: str, tmp_path: Path) -> None:
    """Bit for bit, with the same bytes."""
    options = {**OPTIONS, "clients_per_round": 4, "rounds": 5, "lr_schedule": "constant", "profiles": profiles}
    if profiles != "none":
        # Equal clients arrive together only if they download and send as much: exactly, and without jitter.
        options.update(profiles="lan", uplink="none", downlink="none", local_steps=2)
    run_here(tmp_path, "sync", **options)
    run_here(tmp_path, "buffered", **options, mode="buffered:4")
    models = [load_file(tmp_path / name / "final_model.safetensors") for name in ("sync", "buffered")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    for column in ("uplink_bytes", "downlink_bytes", "val_accuracy", "train_loss"):
        assert [r[column] for r in rows(tmp_path / "sync")] == [r[column] for r in rows(tmp_path / "buffered")], column


def test_updates_come_in_the_order_of_time_and_have_an_age(whole: Path) -> None:
    """Arrivals of a run never go back in time; a round ends with its last; ages are versions missed."""
    for name in _RUNS:
        each = [row for row in rows(whole / name, "clients") if row["arrive_s"]]
        arrivals = [(float(row["arrive_s"]), int(row["client"])) for row in each]
        assert arrivals == sorted(arrivals), name
        for row in rows(whole / name):
            own = [float(r["arrive_s"]) for r in each if r["round"] == row["round"]]
            assert float(row["virtual_time_s"]) >= max(own)
            assert float(row["virtual_time_s"]) == max(own) or "deadline" in _RUNS[name]
        if name not in ("masks",) and (_RUNS[name].get("late") == "carry" or "mode" in _RUNS[name]):
            assert max(int(row["staleness"]) for row in each) > 0, name
    assert {row["clients"] for row in rows(whole / "buffered")} == {"2"}


def test_a_round_ends_at_its_deadline(whole: Path) -> None:
    """Or with its first arrival, if that is later, or its last, if that is earlier. Who is dropped has downloaded."""
    begins = 0.0
    for row in rows(whole / "deadline"):
        each = [r for r in rows(whole / "deadline", "clients") if r["round"] == row["round"]]
        arrived, dropped = [r for r in each if r["arrive_s"]], [r for r in each if not r["arrive_s"]]
        ends = float(row["virtual_time_s"])
        first, last = (pick(float(r["arrive_s"]) for r in arrived) for pick in (min, max))
        assert ends == pytest.approx(max(first, begins + 1.0) if dropped else last)
        assert int(row["clients"]) == len(arrived)
        assert all(int(r["samples"]) == 0 and int(r["downlink_bytes"]) > 0 for r in dropped)
        assert int(row["downlink_bytes"]) == sum(int(r["downlink_bytes"]) for r in each)
        begins = ends
    assert any(not row["arrive_s"] for row in rows(whole / "deadline", "clients"))
    assert any(row["staleness"] not in ("", "0") for row in rows(whole / "carried", "clients"))
    assert {row["clients"] for row in rows(whole / "first")} == {"4"}


def test_clients_that_never_come_back_block_nothing(whole: Path) -> None:
    """All rounds end. Who is lost has downloaded and sent nothing; if it comes back, all of the model crosses again."""
    for name in ("lost", "lost, deadline", "lost, carried"):
        assert len(rows(whole / name)) == 8
        each = rows(whole / name, "clients")
        gone = [row for row in each if not row["arrive_s"]]
        assert gone, name
        assert all(int(row["uplink_bytes"]) == 0 for row in gone), name
    each = rows(whole / "lost", "clients")
    model = max(int(row["downlink_bytes"]) for row in each)
    for client in {row["client"] for row in each}:
        own = [row for row in each if row["client"] == client]
        lost = sum(not row["arrive_s"] for row in own)
        assert sum(int(row["downlink_bytes"]) == model for row in own) >= lost, (
            "the start after a loss is with everything"
        )


def test_a_buffer_of_the_latest_updates_has_one_of_each_client(whole: Path) -> None:
    """Those that were replaced are counted, and not taken."""
    each = rows(whole / "latest", "clients")
    for row in rows(whole / "latest"):
        taken = [r["client"] for r in each if r["round"] == row["round"] and r["arrive_s"]]
        assert len(taken) == len(set(taken)) == 4
        assert int(row["uplink_bytes"]) == sum(int(r["uplink_bytes"]) for r in each if r["round"] == row["round"])
    assert any(not row["arrive_s"] and int(row["uplink_bytes"]) > 0 for row in each)


def test_what_was_in_vain_is_in_the_baseline_too(whole: Path) -> None:
    """The ratio of a row is that of its columns, in every kind of run; every message has a dense counterpart."""
    for name in _RUNS:
        for row in rows(whole / name):
            assert float(row["uplink_ratio"]) == int(row["uplink_dense_bytes"]) / int(row["uplink_bytes"]), name
    sent = sum(int(row["uplink_bytes"]) > 0 for row in rows(whole / "latest", "clients"))
    model = int(rows(whole / "buffered")[0]["uplink_dense_bytes"]) // 2
    assert sum(int(row["uplink_dense_bytes"]) for row in rows(whole / "latest")) == sent * model


def test_slower_clients_learn_to_hold_less(whole: Path) -> None:
    """Capabilities begin at 1 and fall for those that are slow; the uplink's shares follow from the links at once."""
    each = [row for row in rows(whole / "learnt", "clients") if row["arrive_s"]]
    first, last = ({row["client"]: float(row["capability"]) for row in order} for order in (each[::-1], each))
    assert set(first.values()) == {1.0}
    assert min(last.values()) < 0.8
    assert max(last.values()) == 1.0
    assert {float(row["uplink_share"]) for row in each} == {0.2, 1.0}
    assert "the capability changes, from virtual times" in (whole / "learnt" / "run.log").read_text()


def _a_dropped_update_never_was(rank: int, world_size: int) -> None:
    worker = make_worker(**_ALL["deadline"])
    rounds, wasted = make_rounds(worker), 0
    for round_ in range(6):
        before = {client: rounds.states.get(client).get("sender", {}) for client in range(6)}
        outcome = rounds.run(round_)
        arrived = {report.client for report in outcome.reports}
        for late in outcome.dropped:
            after = rounds.states.get(late.client).get("sender", {})
            assert late.client not in arrived
            assert before[late.client].keys() == after.keys()
            assert all(torch.equal(after[name], before[late.client][name]) for name in after)
        wasted += len(outcome.dropped)
    assert wasted


def _run_watched(rounds: Any, number: int) -> list[tuple[int, Any, Any, int, Any]]:
    """Of each update that a round takes: its age, update [n], buffers [m], samples, and the model that it started from."""
    found, aggregate = [], rounds._aggregate

    def watching(number: int, arrived: Any, ages: Any) -> Any:
        for each, age in zip(arrived, ages, strict=True):
            message = rounds.inbox.pending[each.arrival.client, each.arrival.number].message
            update, buffers = decode_model(message.sections, "update", rounds.state, rounds.encoder.uplink.codec)
            version = rounds.inbox.versions.get(each.start.version)
            found.append((age, update.dense(), buffers.values.clone(), each.report.samples, version))
        return aggregate(number, arrived, ages)

    rounds._aggregate = watching
    rounds.run(number)
    rounds._aggregate = aggregate
    return found


def _mixed_models(rank: int, world_size: int) -> None:
    worker = make_worker(
        **{
            **_ALL["async"],
            "uplink": "none",
            "downlink": "none",
            "momentum": 0.0,
            "weight_decay": 0.0,
            "server_lr": 0.6,
        }
    )
    rounds = make_rounds(worker)
    state, seen = worker.state, []
    for number in range(8):
        before, kept = state.parameters.clone(), state.buffers.clone()
        [(age, update, buffers, _, version)] = _run_watched(rounds, number)
        by_age = weight("hinge:1,1", age)
        local, a = version - update, 0.6 * by_age
        torch.testing.assert_close(state.parameters, (1 - a) * before + a * local, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state.buffers, (1 - a) * kept + a * buffers, rtol=1e-5, atol=1e-6)
        seen.append(by_age)
    assert min(seen) < 1, "some were late"
    assert min(seen) >= weight("hinge:1,1", 8)


def _weights_of_ages(rank: int, world_size: int) -> None:
    exact = {"uplink": "none", "downlink": "none", "server": "fedavg"}
    worker = make_worker(**{**_ALL["buffered"], **exact, "staleness": "poly:1"})
    rounds = make_rounds(worker)
    state, weights = worker.state, []
    for number in range(6):
        before, kept = state.parameters.clone(), state.buffers.clone()
        total, moved, samples = torch.zeros_like(before), torch.zeros_like(kept), 0
        for age, update, buffers, own, _ in _run_watched(rounds, number):
            weights.append(weight("poly:1", age))
            total += weights[-1] * own * update
            moved += weights[-1] * own * (buffers - kept)
            samples += own
        torch.testing.assert_close(state.parameters, before - total / samples, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state.buffers, kept + moved / samples, rtol=1e-5, atol=1e-6)
    assert len(weights) == 12
    assert min(weights) < 1, "some were late"


@pytest.mark.parametrize("check", [_a_dropped_update_never_was, _mixed_models, _weights_of_ages])
def test_formulas(check: Any) -> None:
    """FedAsync's mixture of models; FedBuff's sum over samples, in which age weighs only above the line; BatchNorm's
    statistics move as the weights do; a dropped update."""
    on_ranks(1, check)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "bufered:2"}, "did you mean 'buffered'"),
        ({"mode": "buffered"}, "--mode"),
        ({"mode": "buffered:0"}, "the size of the buffer"),
        ({"mode": "async:2"}, "ALPHA"),
        ({"mode": "async:0.5", "server": "fedadam"}, "mixes models by ALPHA"),
        ({"mode": "buffered:2", "prune": "magnitude:0.5"}, "different versions"),
        ({"staleness": "poly:1"}, "nothing comes late"),
        ({"lost": 0.1, "profiles": "good"}, "would never end"),
        ({"lost": 0.1, "profiles": "good", "mode": "buffered:2"}, "needs a --timeout"),
        ({"timeout": 3.0, "mode": "buffered:2"}, "--profiles must not be none"),
        ({"timeout": 3.0, "profiles": "good", "deadline": 2.0}, "at the end of a round already"),
        ({"mode": "buffered:9,latest", "clients": 4}, "there are only --clients 4"),
        ({"over_select": 2.0, "lost": 0.1, "profiles": "good"}, "needs a --deadline"),
        ({"prune": "magnitude:0.5,mean=cohort"}, "hold different parts"),
        ({"mode": "async:0.5,latest"}, "buffered:K, not async"),
        ({"sampling": "diurnal:100s,0.5"}, "goes by virtual seconds"),
        ({"uplink_shares": "online:0.1"}, "--profiles must not be none"),
        ({"uplink_shares": "online:0.1", "profiles": "good", "uplink": "bf16"}, "a kept fraction"),
        ({"uplink_shares": "onlin:0.1"}, "did you mean 'online'"),
        ({"capabilities": "online:0.1", "prune": "structured:0"}, "--profiles, which must not be none"),
        ({"capabilities": "online:0.1", "prune": "magnitude:0.1,by=client", "profiles": "good"}, "nested parts"),
        ({"deadline": 3.0}, "--profiles must not be none"),
        ({"deadline": 3.0, "profiles": "good", "mode": "buffered:2"}, "must be sync"),
        ({"over_select": 2.0, "profiles": "good", "prune": "magnitude:0.5"}, "--over-select 2: updates come from"),
        ({"mode": "buffered:2", "staleness": "pol:1"}, "did you mean 'poly'"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    """In one sentence, before anything is written."""
    with pytest.raises(ConfigError, match=words):
        run_here(tmp_path, "run", **options)
    assert not list(tmp_path.iterdir())
