"""DeepSpeed engines of several ranks train apart."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.fl.training.engine.deepspeed_files import AUTOCAST, AUTOCAST_FP16, BF16, FP16, FP32

_RANK = """
import json, sys
from types import SimpleNamespace
import torch, torch.distributed as dist
from torch import nn
from fl.common.config import Config
from fl.training.engine import make_engine
from fl.training.engine.deepspeed_config import reconcile
rank, store, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
world = dist.group.WORLD
ranks = SimpleNamespace(rank=rank, local_rank=rank, device=torch.device("cpu"), launcher="deepspeed")
for contents in json.loads(sys.argv[4]):
    if "fp16" in contents:
        from deepspeed.accelerator import get_accelerator
        get_accelerator().is_fp16_supported = lambda: True
    path = f"{folder}/{rank}.json"
    json.dump(contents, open(path, "w"))
    torch.manual_seed(rank)
    model = nn.Linear(4, 3)
    first = model.weight.detach().clone()
    before = world._get_sequence_number_for_group()
    engine = make_engine(reconcile(Config(deepspeed_config=path, clip_norm=1.0), frozenset()), model, ranks)
    assert torch.equal(model.weight, first), "a rank's weights have travelled"
    for client in range(1 + rank):
        engine.start(0.1)
        for _ in range(2 + 5 * rank):
            # Rank 1 overflows in fp16, rank 0 does not.
            engine.step(torch.randn(6, 4) * (1e4 if rank else 1), torch.randint(0, 3, (6,)))
        engine.finish()
    assert world._get_sequence_number_for_group() == before, f"{contents}: a local step has communicated"
dist.barrier()
dist.destroy_process_group()
"""


def test_two_ranks_take_different_numbers_of_steps(tmp_path: Path) -> None:
    """Oracle: two real gloo ranks: different weights, clients and steps, and no collective on the world group."""
    environment = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    kinds = json.dumps([FP32, AUTOCAST, AUTOCAST_FP16, BF16, FP16])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(rank), str(tmp_path / "store"), str(tmp_path), kinds],
            env=environment | {"LOCAL_RANK": str(rank), "DS_ACCELERATOR": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        assert output == "", "DeepSpeed talks"
