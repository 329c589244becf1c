"""Real updates of ResNet-18 on CIFAR-10, made once and kept: the vectors that `make bench-compress` compresses.

Four clients share 10,000 images, IID; GroupNorm, one local epoch a round, SGD of lr 0.02 and momentum 0.9, clipping at 1,
crops and flips. `first` is client 0's update after its first local epoch. `round10` is what client 0 encodes in its tenth
round with error feedback running at `topk:0.01`: its update plus the residual of nine rounds.
"""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from compression import Layout
from fl.common.config import Config
from fl.common.ranks import join_ranks
from fl.models.update import Job
from fl.rounds.federated import FederatedRounds
from fl.run.build import assemble
from fl.run.checks import resolve
from fl.run.loop import make_rounds
from fl.training.local_model import WholeModel

NAMES = ("first", "round10")
_ROUNDS = 10
_SETTING = Config(
    dataset="cifar10",
    limit_train=10_000,
    model="resnet18",
    norm="group",
    clients=4,
    rounds=_ROUNDS,
    local_epochs=1,
    batch_size=64,
    lr=0.02,
    clip_norm=1.0,
    uplink="topk:0.01",
    precision="bf16",
)


def real_updates(data_dir: str | Path, folder: Path, threads: int) -> dict[str, tuple[Layout, torch.Tensor]]:
    """The two updates, each with its layout, fp32 [11.2 M]; trained if `folder` does not hold them yet."""
    if not all((folder / f"{name}.safetensors").exists() for name in NAMES):
        _train(dataclasses.replace(_SETTING, data_dir=str(data_dir), threads=threads), folder)
    found = {}
    for name in NAMES:
        tensors = load_file(folder / f"{name}.safetensors")
        order = sorted(
            tensors, key=lambda key: int(key.split(" ")[0])
        )  # "0007 layer1.0.conv1.weight": the model's order
        layout = Layout.of((key.split(" ")[1], tensors[key]) for key in order)
        found[name] = (layout, torch.cat([tensors[key].flatten() for key in order]))
    return found


def _train(config: Config, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with join_ranks(config) as ranks:
        worker = assemble(resolve(config, world_size=1, threads=ranks.threads), ranks)
        rounds, layout = make_rounds(worker), worker.state.layout
        assert isinstance(rounds, FederatedRounds)
        for round_ in tqdm(range(_ROUNDS), unit="round", desc="training ResNet-18 for real updates"):
            if round_ in (0, _ROUNDS - 1):
                whole = WholeModel(worker.engine, worker.state)
                total = rounds.trainer.train(Job(0, round_, round_), whole).values
                state = rounds.states.get(0).get("sender")
                if state:
                    total += torch.cat([state[f"residual.{name}"].flatten() for name in layout.names])
                named = zip(layout.names, layout.views(total), strict=True)
                tensors = {f"{at:04d} {name}": view.clone() for at, (name, view) in enumerate(named)}
                save_file(tensors, folder / f"{NAMES[round_ > 0]}.safetensors")
            if round_ < _ROUNDS - 1:
                rounds.run(round_)
