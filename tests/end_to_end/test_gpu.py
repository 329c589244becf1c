"""Whole runs on a real GPU. Oracle: the same run a second time; a GPU's bits are not a CPU's, but they replay."""

from pathlib import Path

import pytest
import torch

from fl import train
from tests.cuda_double.runs import RUNS, SMALL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_replays(name: str, precision: str, tmp_path: Path) -> None:
    """To the bit."""
    options = {**SMALL, **RUNS[name], "precision": precision, "device": "cuda", "output_dir": str(tmp_path)}
    first, second = (train(**options, run_name=turn)["model_sha256"] for turn in ("first", "second"))
    assert first == second


def test_a_gpu_resumes(tmp_path: Path) -> None:
    """From the checkpoint of the first round."""
    options = {**SMALL, "uplink": "topk:0.05", "downlink": "topk:0.1", "server": "fedadam", "eval_every": 1}
    options |= {"device": "cuda", "output_dir": str(tmp_path)}
    whole = train(**options, run_name="whole")
    train(**{**options, "rounds": 1}, run_name="cut")
    assert train(resume=str(tmp_path / "cut"), rounds=2, quiet=True)["model_sha256"] == whole["model_sha256"]
