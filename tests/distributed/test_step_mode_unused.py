"""`--mode step` with models that leave layers out of some steps, or never use them.

Oracle: the same training in a loop of its own, through DDP's own `find_unused_parameters`, to the bit.
"""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, codec_hook
from fl.common.errors import ConfigError
from fl.rounds.ddp import DdpRounds
from fl.training.engine.optimizer import make_optimizer
from tests.distributed.hook_cases import ONE_BUCKET, same_on_all_ranks
from tests.distributed.test_step_mode import batches
from tests.support import make_worker, on_ranks

pytestmark = pytest.mark.timeout(180)  # a rank that waits for ever should not take the whole suite with it

_OPTIONS: dict[str, Any] = {
    "mode": "step",
    "limit_train": 120,
    "local_steps": 4,
    "batch_size": 8,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "lr": 0.02,
}


class Skips(nn.Module):
    """A layer that some batches skip in training, and with `spare` another one that nobody ever uses."""

    def __init__(self, classes: int, in_channels: int, *, spare: bool) -> None:
        super().__init__()
        self.first = nn.Linear(16 * in_channels, 20)
        self.middle = nn.Linear(20, 20)
        self.last = nn.Linear(20, classes)
        if spare:
            self.spare = nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)))
        # A batch of two, as in the trial before the run, skips nothing.
        skips = self.training and len(x) > 2 and int(x.abs().sum() * 100) % 2
        return self.last(hidden if skips else hidden + torch.relu(self.middle(hidden)))


def spare(classes: int, in_channels: int) -> nn.Module:
    return Skips(classes, in_channels, spare=True)


def skips(classes: int, in_channels: int) -> nn.Module:
    return Skips(classes, in_channels, spare=False)


def synchronised(classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.SyncBatchNorm(4), nn.Flatten(), nn.LazyLinear(classes))


def check(rank: int, world: int, name: str, uplink: str) -> None:
    worker = make_worker(**_OPTIONS, model=f"{__name__}:{name}", uplink=uplink)
    model = copy.deepcopy(worker.engine.model)
    ddp = DistributedDataParallel(model, find_unused_parameters=True, bucket_cap_mb=ONE_BUCKET)
    hook = CodecHook(uplink, model.named_parameters(), seed=worker.config.seed)
    if uplink != "none":
        ddp.register_comm_hook(hook, codec_hook)
    parameters = list(model.parameters())
    optimizer = make_optimizer(worker.config, parameters, worker.config.lr)
    # Nobody knows of unused parameters where ranks send no lengths, and none was found before the run.
    unknown = name == "skips" and uplink == "none" and world > 1
    step_mode, skipped = DdpRounds(worker), 0
    for round_ in range(2):
        hook.calls = round_ * 4
        for x, y in batches(worker, round_, rank):
            optimizer.zero_grad()
            cross_entropy(ddp(x), y).backward()
            skipped += model.middle.weight.grad is None
            for parameter in parameters:
                if unknown and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
        step_mode.run(round_)
        expected = torch.nn.utils.parameters_to_vector(parameters)
        assert torch.equal(worker.state.parameters, expected), (name, uplink, round_)
        assert same_on_all_ranks(worker.state.parameters)
    assert 0 < skipped < 8, skipped
    if uplink != "none":
        ours, theirs = step_mode.hook.sender.state_dict(), hook.sender.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def check_cases(rank: int, world: int) -> None:
    for name in ("spare", "skips"):
        for uplink in ("none", "topk:0.1", "powersgd:2"):
            check(rank, world, name, uplink)


@pytest.mark.parametrize("world", [1, 2])
def test_layers_left_out(world: int) -> None:
    """What no rank used in a step keeps weights, moments and residuals. Only without a codec, and in a model whose trial
    steps used everything, does it get a gradient of zero."""
    on_ranks(world, check_cases)


def check_refused(rank: int, world: int) -> None:
    with pytest.raises(ConfigError, match="has SyncBatchNorm, which works on GPUs alone"):
        DdpRounds(make_worker(**_OPTIONS, model=f"{__name__}:synchronised"))


def test_synchronised_batch_norm_without_a_gpu_is_refused() -> None:
    """In one sentence, when the run is put together."""
    on_ranks(1, check_refused)
