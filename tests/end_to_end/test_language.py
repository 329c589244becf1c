"""Language models in every mode. Oracles: the final model evaluated by hand, the same run on two ranks, and the
uninterrupted run."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from fl.common.config import Config
from fl.data import load_dataset
from fl.export import export_run, load
from fl.models.language import GPT
from fl.output.record import read_metrics
from tests.end_to_end.replay import check_resumed, check_two_ranks
from tests.support import run_here

_SIZES: dict[str, Any] = {"layers": 1, "heads": 2, "width": 16, "context": 16, "dropout": 0.1}
_MODEL = "gpt:layers=1,heads=2,width=16,context=16,dropout=0.1"


class Tupled(nn.Module):
    """Tokens to (logits, hidden states), or a dict, with one weight for the embedding and the last layer."""

    def __init__(self, classes: int, *, as_dict: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(classes, 12)
        self.rnn = nn.GRU(12, 12, batch_first=True)
        self.head = nn.Linear(12, classes, bias=False)
        self.head.weight = self.tokens.weight
        self.as_dict = as_dict

    def forward(self, x: torch.Tensor) -> Any:
        states, hidden = self.rnn(self.tokens(x))
        logits = self.head(states)
        return {"loss": None, "logits": logits} if self.as_dict else (logits, hidden)


def tupled(classes: int, length: int) -> nn.Module:
    """A model that returns a tuple."""
    return Tupled(classes, as_dict=False)


def mapped(classes: int, length: int) -> nn.Module:
    """A model that returns a dict."""
    return Tupled(classes, as_dict=True)


def _runs(folder: Path) -> dict[str, dict[str, Any]]:
    play = "\n\n".join(
        f"{role}:\nI say {role} {turn}, and again." for turn in range(120) for role in ("Anna", "Berta", "Cleo")
    )
    (folder / "play.txt").write_text(play)
    common: dict[str, Any] = {
        "dataset": f"text:{folder / 'play.txt'},group=role",
        "model": _MODEL,
        "clients": 3,
        "rounds": 3,
        "local_steps": 3,
        "batch_size": 4,
        "optimizer": "adamw",
        "lr": 0.01,
        "uplink": "topk:0.1+log3+zstd",
        "downlink": "topk:0.1+log3+zstd",
        "precision": "fp32",
    }
    own = "tests.end_to_end.test_language"
    return {
        "plain": {**common, "uplink": "none", "downlink": "none", "client_eval": 0.2, "partition": "natural"},
        "masked": {**common, "prune": "magnitude:0.5", "clients_per_round": 2, "partition": "contiguous"},
        "buffered": {**common, "mode": "buffered:2", "profiles": "good", "model": f"{own}:tupled"},
        "lowrank": {
            **common,
            "model": f"{own}:mapped",
            "uplink": "powersgd:2",
            "downlink": "bf16",
            "precision": "fp16",
        },
        "lstm": {**common, "model": "char_lstm", "context": 8, "uplink": "randk:0.1", "rounds": 2},
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The options of every run."""
    return _runs(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def whole(runs: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    for name, options in runs.items():
        run_here(folder, name, **options)
    return folder


def test_figures_of_the_final_model(whole: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Loss, perplexity and bits per byte of the test samples by one forward pass of the exported model."""
    folder, options = whole / "plain", runs["plain"]
    summary = json.loads((folder / "summary.json").read_text())
    data = load_dataset(Config(**{**options, "context": 16}), seed=0)
    model = GPT(data.classes, **_SIZES).eval()
    model.load_state_dict(load_file(folder / "final_model.safetensors"))
    with torch.no_grad():
        loss = float(F.cross_entropy(model(data.test.x).flatten(0, 1), data.test.y.flatten()))
    assert summary["final_test_loss"] == pytest.approx(loss, rel=1e-5)
    assert summary["final_test_perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert summary["final_test_bits_per_byte"] == pytest.approx(loss / math.log(2) / data.bytes_per_token, rel=1e-5)
    assert summary["best_val_bits_per_byte"] <= summary["final_val_bits_per_byte"]
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert not (folder / "predictions.csv").exists()


def test_it_learns(whole: Path) -> None:
    """Fewer bits after the last round than after the first."""
    for name in whole.iterdir():
        first, *_, last = (row["val_bits_per_byte"] or math.inf for row in read_metrics(name))
        assert last < first, name


def test_two_ranks(runs: dict[str, dict[str, Any]], whole: Path, tmp_path: Path) -> None:
    """The same model, figures and bytes."""
    check_two_ranks(tmp_path, runs, whole)


def test_resumed(runs: dict[str, dict[str, Any]], whole: Path, tmp_path: Path) -> None:
    """A round on two ranks, the others in one process: the same run."""
    check_resumed(tmp_path, {name: options for name, options in runs.items() if name != "lstm"}, whole, ranks=2, stop=1)


def test_export(whole: Path) -> None:
    """What was exported is the final model, tied weights included."""
    export_run(whole / "masked")
    model = load(whole / "masked" / "export")
    final = load_file(whole / "masked" / "final_model.safetensors")
    assert {name: tensor.tolist() for name, tensor in model.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in final.items()
    }
