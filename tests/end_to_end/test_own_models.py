"""Runs with models that draw, remember and count. Oracles: the same run on two ranks, continued; and counts by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fl import train
from fl.common.errors import ConfigError
from fl.export import export_run, load
from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.support import no_figures, run_here

_COMMON: dict[str, Any] = {
    "model": "tests.user_models:all_in_one",
    "clients": 4,
    "rounds": 2,
    "local_steps": 3,
    "batch_size": 16,
    "lr": 0.02,
    "limit_train": 200,
    "limit_test": 600,  # more than one batch, so that evaluation is shared out
    "uplink": "topk:0.2",
}
RUNS: dict[str, dict[str, Any]] = {
    "plain": _COMMON,
    "buffered": {**_COMMON, "mode": "buffered:2", "client_eval": 0.2},
    "smaller": {**_COMMON, "model": "tests.user_models:narrow", "prune": "width:0.5", "uplink": "none"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run, in this process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), RUNS)


def test_two_ranks(tmp_path: Path, whole: Path) -> None:
    """The same model, metrics and bytes."""
    check_two_ranks(tmp_path, RUNS, whole)


def test_continued_after_other_draws(tmp_path: Path, whole: Path) -> None:
    """What the program drew before, with any generator, does not matter; nor where the run was stopped."""
    torch.rand(3), np.random.rand(3)
    check_resumed(tmp_path, {"plain": RUNS["plain"]}, whole, ranks=1, stop=1)


def test_a_program_keeps_its_own_streams_and_settings(tmp_path: Path) -> None:
    """Oracle: the generators' states, and torch's settings, before a run."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    torch.set_default_dtype(torch.float64)
    try:
        with no_figures(), torch.no_grad():
            options = {**_COMMON, "limit_test": 50, "rounds": 1, "dataset": "digits", "threads": 1, "quiet": True}
            summary = train(**options, output_dir=str(tmp_path))
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    state = load_file(Path(summary["folder"]) / "final_model.safetensors")
    assert {tensor.dtype for name, tensor in state.items() if name.endswith("weight")} == {torch.float32}


def test_counts_and_flags_are_averaged_and_exported(tmp_path: Path) -> None:
    """Two rounds of three steps each are six steps on every client, a flag that all set is set, a table stays as it was
    drawn; every exported form has them. Each of the three numbers costs 4 bytes a client and round."""
    options = {**_COMMON, "model": "tests.user_models:Counting", "seed": 5, "uplink": "none", "limit_test": 50}
    counting = run_here(tmp_path, "run", **options)
    plain = run_here(tmp_path, "plain", **{**options, "model": "tests.user_models:Head"})
    up = [run["total_uplink_bytes"] for run in (counting, plain)]
    assert up[0] - up[1] >= 2 * 4 * 3 * 4  # and a header
    state = load_file(tmp_path / "run" / "final_model.safetensors")
    assert (int(state["steps"]), state["begun"].tolist()) == (6, [True, True])
    export_run(tmp_path / "run", bits=8, model=options["model"])
    forms = [
        load(tmp_path / "run" / "export", kind, model=options["model"])
        for kind in ("model", "payload", "quantised payload")
    ]
    assert all(int(form.steps) == 6 and torch.equal(form.order, state["order"]) for form in forms)


def test_outputs_with_logits_train_as_those_without(tmp_path: Path) -> None:
    """Oracle: the model whose outputs are the logits themselves."""
    options = {**_COMMON, "limit_test": 50, "uplink": "none"}
    ours = run_here(tmp_path, "ours", **{**options, "model": "tests.user_models:Answering"})
    theirs = run_here(tmp_path, "theirs", **{**options, "model": "tests.user_models:Head"})
    assert ours["model_sha256"] == theirs["model_sha256"]
    assert ours["final_test_accuracy"] == theirs["final_test_accuracy"]


def test_synchronised_batchnorm_is_for_step_mode(tmp_path: Path) -> None:
    """Refused before a folder is made."""
    with pytest.raises(ConfigError, match=r"has SyncBatchNorm, which joins the batches of all ranks"):
        run_here(tmp_path, "run", **{**_COMMON, "model": "tests.user_models:synchronised"})
    assert not list(tmp_path.iterdir())


def test_layers_that_are_frozen_on_the_way_in_step_mode(tmp_path: Path) -> None:
    """DDP waits for them all the same. Oracle: the second head has moved, and the run is at its end."""
    options = {**_COMMON, "model": "tests.user_models:Freezing", "clients": 1, "mode": "step", "limit_test": 50}
    run_here(tmp_path, "run", **{**options, "rounds": 1})
    run_here(tmp_path, "none", **{**options, "rounds": 1, "lr": 0.0})
    moved, first = (load_file(tmp_path / name / "final_model.safetensors") for name in ("run", "none"))
    assert not torch.equal(moved["second.net.2.weight"], first["second.net.2.weight"])


@pytest.mark.parametrize("options", [{"mode": "buffered:2"}, {"deadline": 9, "profiles": "good"}, {"profiles": "good"}])
def test_virtual_time_needs_operations_that_can_be_counted(tmp_path: Path, options: dict[str, Any]) -> None:
    """A network that looks at its values has no count of operations: refused before there is a run folder."""
    with pytest.raises(ConfigError, match=r"operations cannot be counted .* use --mode sync"):
        run_here(tmp_path, "run", **{**_COMMON, "model": "tests.user_models:looking", **options})
    assert not (tmp_path / "run").exists()
