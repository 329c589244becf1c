"""docs/architecture.md: the examples of its seams work as printed, and it names what there is."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fl.comm.message
import fl.comm.transport
import fl.pruning.build
import fl.rounds.federated
import fl.rounds.timed
import fl.run.build
import fl.run.rules
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.pruning.plan import SubmodelPlan
from fl.rounds.base import transaction
from fl.server.rules import aggregators
from fl.server.spec import server_optimizers
from fl.training.local_model import WholeModel
from tests.support import ROOT, resume_here, rows, run_here

PAGE = (ROOT / "docs" / "architecture.md").read_text()
RUN = {"clients": 4, "rounds": 3, "limit_train": 160, "local_steps": 2, "batch_size": 16}


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Every name that the page's Python defines; its registrations are taken back."""
    for registry, name in ((aggregators, "vote"), (server_optimizers, "signum")):
        monkeypatch.setitem(registry, name, None)  # `delitem` takes nothing back where there was nothing
        del registry[name]
    scope: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(block, "architecture.md", "exec"), scope)
    return scope


def _model(folder: Path, name: str) -> torch.Tensor:
    return torch.cat(
        [tensor.view(-1) for _, tensor in sorted(load_file(folder / name / "final_model.safetensors").items())]
    )


def test_the_plan_halves_what_clients_send_and_download(tmp_path, examples, monkeypatch):
    """Oracle: fp32 payloads of half as many numbers as without it."""
    run_here(tmp_path, "whole", uplink="none", **RUN)
    monkeypatch.setattr(fl.pruning.build, "SharedMask", lambda inputs, rewind: examples["Halves"](inputs))
    run_here(tmp_path, "half", uplink="none", prune="magnitude:0.5", **RUN)
    for column in ("uplink_bytes", "downlink_bytes"):
        whole, half = (int(rows(tmp_path / name, "clients")[0][column]) for name in ("whole", "half"))
        assert half == pytest.approx(whole / 2, rel=0.01)


def test_the_algorithm_clips_and_resumes(tmp_path, examples, monkeypatch):
    """No round moves the model by more than the clip and its noise; a run in two pieces draws the same noise."""
    monkeypatch.setattr(fl.run.build, "make_algorithm", lambda *_, **__: examples["Private"]())
    summary = run_here(tmp_path, "once", uplink="none", **RUN)
    assert all(0 < float(row["update_norm"]) < 1.2 for row in rows(tmp_path / "once"))
    run_here(tmp_path, "twice", uplink="none", **{**RUN, "rounds": 1})
    assert resume_here(tmp_path, "twice", rounds=3)["model_sha256"] == summary["model_sha256"]


def test_the_encoder_sends_more_for_even_clients(tmp_path, examples, monkeypatch):
    """Bytes by client, two coordinates in a hundred or one."""
    monkeypatch.setattr(fl.rounds.federated, "Encoder", examples["Preferred"])
    run_here(tmp_path, "run", uplink="topk:0.01", **RUN)
    sent = [int(row["uplink_bytes"]) for row in rows(tmp_path / "run", "clients")[:4]]
    assert min(sent[0], sent[2]) > 1.8 * max(sent[1], sent[3])


@pytest.mark.parametrize("options", [{"aggregate": "vote", "server_lr": 0.001}, {"server": "signum"}])
def test_every_weight_moves_by_the_learning_rate(tmp_path, examples, options):
    """Both take the sign of something: after one round each weight has moved by 0.001, or not at all."""
    run_here(tmp_path, "start", uplink="none", **{**RUN, "rounds": 1, "server_lr": 0.0})
    run_here(tmp_path, "run", uplink="none", **options, **{**RUN, "rounds": 1})
    moved = (_model(tmp_path, "run") - _model(tmp_path, "start")).abs()
    assert torch.all((moved < 1e-6) | ((moved - 0.001).abs() < 1e-6))
    assert moved.max() > 0


def test_the_schedule_drops_who_is_late(tmp_path, examples, monkeypatch):
    """Two updates a step, none of an older model; the clients that were dropped have rows without samples."""
    monkeypatch.setattr(fl.rounds.timed, "make_schedule", lambda config: examples["First"](2, config.clients_per_round))
    run_here(tmp_path, "run", mode="buffered:2", profiles="mix:good=0.5+2g=0.5", **RUN)
    taken = [row for row in rows(tmp_path / "run", "clients") if row["arrive_s"]]
    assert len(taken) == 6
    assert {float(row["staleness"]) for row in taken} == {0}
    assert len(rows(tmp_path / "run", "clients")) > 6


def test_the_rule_is_one_sentence(examples, monkeypatch):
    """A row of the table, as the page shows it."""
    monkeypatch.setattr(fl.run.rules, "RULES", (examples["RULE"],))
    fl.run.rules.check_rules(Config(qat=8))
    sentence = "^--qat 8 rounds weights to a grid, and --server-lr 20 leaves it in one step: use 10 or less$"
    with pytest.raises(ConfigError, match=sentence):
        fl.run.rules.check_rules(Config(qat=8, server_lr=20.0))


def test_the_participant_forgets_a_round_that_fails(examples):
    """What the block changed is gone if it raises, and stays if it does not."""
    uploads = examples["Uploads"]()
    with transaction([uploads]):
        uploads.counts[3] = 1
    with pytest.raises(ZeroDivisionError), transaction([uploads]):
        uploads.counts[4] = uploads.counts.pop(3) // 0
    assert uploads.counts == {3: 1}
    again = examples["Uploads"]()
    again.load_state_dict(uploads.state_dict())
    assert again.counts == {3: 1}


def test_the_section_travels_and_is_charged(tmp_path, examples, monkeypatch):
    """Four bytes more for each client and round, and the server reads the number."""
    run_here(tmp_path, "without", uplink="none", **RUN)
    names = (*fl.comm.message.SECTIONS, "largest")
    numbers = fl.comm.message.COLUMNS + 1
    for module in (fl.comm.message, fl.comm.transport):
        monkeypatch.setattr(module, "SECTIONS", names)
        monkeypatch.setattr(module, "COLUMNS", numbers)
    plans = []

    def make_plan(worker: Any, trainer: Any) -> SubmodelPlan:
        plans.append(examples["Told"](worker.state, WholeModel(worker.engine, worker.state)))
        return plans[0]

    monkeypatch.setattr(fl.rounds.federated, "make_plan", make_plan)
    run_here(tmp_path, "with", uplink="none", **RUN)
    before, after = (int(rows(tmp_path / name, "clients")[0]["uplink_bytes"]) for name in ("without", "with"))
    assert after == before + 4
    assert 0 < plans[0].largest < 10


def test_every_file_and_class_that_it_names_exists():
    """Paths are files or folders, names in the table of rooms are modules there, and capitalised words are classes."""
    for path in re.findall(r"`((?:fl|compression)/[\w/.]*)`", PAGE):
        assert (ROOT / path).exists(), path
    for room, words in re.findall(r"^\| \d \| `([\w/]+)/` \| (.*) \|$", PAGE, flags=re.MULTILINE):
        for word in re.findall(r"`([\w/]+)`", words):
            assert (ROOT / room / word).exists() or (ROOT / room / f"{word}.py").exists(), f"{room}/{word}"
    for plan, module in (("SharedMask", "shared_mask"), ("ClientMasks", "per_client"), ("NestedSubmodels", "nested")):
        assert plan in PAGE
        assert hasattr(importlib.import_module(f"fl.pruning.{module}"), plan)


def test_the_walk_is_that_of_the_code():
    """The lines of `SyncRounds.run` that the page shows, but for comments, stand in the code in this order."""
    shown = re.search(r"   ```\n(.*?)   ```", PAGE, flags=re.DOTALL)
    assert shown is not None
    code = (ROOT / "fl" / "rounds" / "sync.py").read_text()
    place = 0
    for line in shown[1].splitlines():
        for piece in line.split("#")[0].strip().split("..."):
            place = code.index(piece, place)
