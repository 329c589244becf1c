"""Promises about a whole run that no single module can keep."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support import TIMES, resume_here, rows, run_here

_TINY = {"clients": 3, "rounds": 4, "local_steps": 2, "batch_size": 16, "uplink": "topk:0.1", "lr": 0.05}
_PLATEAU = {
    **{"clients": 4, "rounds": 5, "local_steps": 12, "batch_size": 16, "lr": 0.1, "momentum": 0.9, "val_fraction": 0.3},
    **{"prune": "magnitude:0", "capabilities": "groups:1.0x2+0.3x2", "recover": "plateau:1,0.01"},
}
"""Parts of the model that grow within these rounds."""


def test_batch_norm_stays_sound_under_an_adaptive_server(tmp_path: Path) -> None:
    """ResNet-18, FedAdam, 5 rounds: all weights finite, running variances positive, and statistics really averaged.

    A server optimizer that stepped the statistics too would drive variances below zero within these rounds.
    """
    summary = run_here(
        tmp_path,
        "run",
        model="resnet18",
        server="fedadam",
        server_lr=0.1,
        rounds=5,
        clients=3,
        limit_train=64,
        local_steps=1,
        batch_size=8,
        eval_every=5,
        checkpoint_every=0,
    )
    weights = load_file(tmp_path / "run" / "final_model.safetensors")
    assert summary["parameters"] == sum(t.numel() for name, t in weights.items() if not _is_statistic(name))
    for name, tensor in weights.items():
        assert bool(torch.isfinite(tensor).all()), name
        if name.endswith("running_var"):
            assert bool((tensor > 0).all()), name
            assert not bool((tensor == 1).all()), f"{name} still has its first value"
        if name.endswith("num_batches_tracked"):
            assert tensor.dtype == torch.int64, "the step counter is not averaged as a float"
    statistics = sum(t.numel() for name, t in weights.items() if name.endswith(("running_mean", "running_var")))
    for row in rows(tmp_path / "run", "clients"):
        assert int(row["uplink_bytes"]) > 4 * statistics, "BatchNorm's statistics are counted as bytes"


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


@pytest.mark.parametrize("options", [_TINY, _PLATEAU], ids=["whole", "recovered"])
def test_test_data_decide_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    """Other test labels change the test accuracies and nothing else: not the weights, not the best round, and not when
    pruned clients recover."""
    summaries, tables = [], []
    for name, dataset in (("right", "few_digits"), ("wrong", "few_digits_wrongly_tested")):
        summaries.append(run_here(tmp_path, name, **options, dataset=f"tests.user_code:{dataset}"))
        tables.append(
            [
                {column: cell for column, cell in row.items() if not column.startswith("test_")}
                for row in rows(tmp_path / name, without=TIMES)
            ]
        )
    right, wrong = summaries
    tested = [[row["test_accuracy"] for row in rows(tmp_path / name)] for name in ("right", "wrong")]
    assert tested[0] != tested[1], "the comparison means nothing otherwise"
    for name in ("model_sha256", "best_val_round", "best_val_accuracy", "final_val_accuracy", "total_uplink_bytes"):
        assert right[name] == wrong[name], name
    assert tables[0] == tables[1]
    sent = {row["kept_fraction"] for row in tables[0]}
    assert (len(sent) > 1) == ("recover" in options), "clients that recover send more of the model"


def test_the_best_round_is_the_first_with_the_best_validation_accuracy(tmp_path: Path) -> None:
    """summary.json against metrics.csv."""
    summary = run_here(tmp_path, "run", **_TINY, eval_every=2)
    table = rows(tmp_path / "run")
    assert [bool(row["val_accuracy"]) for row in table] == [False, True, False, True]
    best = max((row for row in table if row["val_accuracy"]), key=lambda row: float(row["val_accuracy"]))
    assert summary["best_val_round"] == int(best["round"])
    assert summary["best_val_test_accuracy"] == float(best["test_accuracy"])
    assert summary["final_test_accuracy"] == float(table[-1]["test_accuracy"])


def test_without_validation_samples_there_is_no_best_round(tmp_path: Path) -> None:
    """--val-fraction 0: nothing is decided, in particular not by test accuracy."""
    summary = run_here(tmp_path, "run", **_TINY, val_fraction=0.0)
    assert summary["best_val_round"] is None
    assert summary["best_val_test_accuracy"] is None
    assert summary["final_test_accuracy"] is not None


@pytest.mark.parametrize("checkpoint_every", [0, 1, 3])
def test_checkpoints_change_nothing_and_hold_no_pickle(tmp_path: Path, checkpoint_every: int) -> None:
    """The same weights however often a checkpoint is written, and only safetensors, JSON, csv and text on disk."""
    options = {**_TINY, "server": "fedyogi", "downlink": "topk:0.2"}
    expected = run_here(tmp_path, "reference", **options)["model_sha256"]
    summary = run_here(tmp_path, "run", **options, checkpoint_every=checkpoint_every)
    assert summary["model_sha256"] == expected
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert (len([path for path in files if path.name.startswith("manifest-")]) > 0) == (checkpoint_every > 0)
    for path in files:
        assert path.suffix in (".safetensors", ".json", ".csv", ".log"), path
        if path.suffix == ".safetensors":
            load_file(path)
        else:
            path.read_text()
        if path.suffix == ".json":
            json.loads(path.read_text())


@pytest.mark.parametrize(
    "options",
    [
        {"error_feedback": "dgc:0.9", "momentum": 0.0},
        {"state_dtype": "bf16"},
        {"algorithm": "scaffold", "error_feedback": "none", "momentum": 0.0},
        {"mode": "buffered:2", "profiles": "mix:good=0.5+2g=0.5"},
        {"deadline": 30, "over_select": 1.5, "profiles": "mix:good=0.5+2g=0.5"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_states_that_leave_memory_change_nothing(tmp_path: Path, options) -> None:
    """Clients' states all in memory, or none of those that are idle; checkpoints in every round, or none: the same
    model and the same bytes, also where the run is stopped and goes on."""
    all_of = {**_TINY, "clients": 6, "clients_per_round": 2, "uplink": "topk:0.05", **options, "rounds": 6}
    expected = run_here(tmp_path, "whole", **all_of)
    sizes = {tensor.dtype for path in tmp_path.rglob("client-*") for tensor in load_file(path).values()}
    assert sizes == {torch.bfloat16 if "state_dtype" in options else torch.float32}
    for name, every in (("kept", 1), ("never", 0)):
        summary = run_here(tmp_path, name, **all_of, checkpoint_every=every, state_budget="0")
        for key in ("model_sha256", "total_uplink_bytes", "total_downlink_bytes"):
            assert summary[key] == expected[key], (name, key)
    run_here(tmp_path, "short", **{**all_of, "rounds": 4}, state_budget="0")
    summary = resume_here(tmp_path, "short", rounds=6)
    assert summary["model_sha256"] == expected["model_sha256"]


def test_bytes_in_the_tables_add_up(tmp_path: Path) -> None:
    """clients.csv adds up to metrics.csv, and that to summary.json."""
    summary = run_here(tmp_path, "run", **_TINY, downlink="topk:0.1+fp16", server="fedadagrad")
    metrics, clients = rows(tmp_path / "run"), rows(tmp_path / "run", "clients")
    for name in ("uplink_bytes", "downlink_bytes", "train_flops"):
        for row in metrics:
            of_round = [int(client[name]) for client in clients if client["round"] == row["round"]]
            assert sum(of_round) == int(row[name])
        if name == "train_flops":  # summary.json has no total
            assert min(int(client[name]) for client in clients) > 0
            continue
        assert sum(int(row[name]) for row in metrics) == summary[f"total_{name}"]
    for row in metrics:
        assert float(row["uplink_ratio"]) == pytest.approx(int(row["uplink_dense_bytes"]) / int(row["uplink_bytes"]))
        assert float(row["kept_fraction"]) == pytest.approx(0.1, abs=1e-3)


def test_a_client_that_skips_all_steps_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: a model whose gradients are NaN at any loss scale; nothing moves, as the terminal and run.log say."""
    run_here(tmp_path, "run", model="tests.user_code:steep_model", precision="fp16", local_steps=2, rounds=1)
    told = "round 0: client 0, 1, 2, 3 took no step, since no loss scale keeps the gradients finite in fp16"
    assert told in capsys.readouterr().err
    assert told in (tmp_path / "run" / "run.log").read_text()
    assert [float(row["update_norm"]) for row in rows(tmp_path / "run")] == [0.0]
