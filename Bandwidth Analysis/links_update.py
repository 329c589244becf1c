"""The updates that are sent in `measure_links.py`: what clients have learnt in their first local steps, or noise."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from compression import Layout
from fl.common.generators import torch_generator

STEPS = 8


def write_updates(model: str, data_dir: str | None, clients: int, path: Path) -> str:
    """Write one update for each of so many clients to `path`; returns in words what they are.

    With `data_dir`, which must hold CIFAR-10, each client takes 8 steps of 32 of its images from the same first weights
    (SGD lr 0.02, momentum 0.9, group norm, IID). Without, they are normal noise of the same shapes.
    """
    if data_dir is None:
        # Here and below, so that the ranks, which only read, need not load what trains.
        from fl.common.config import Config
        from fl.models import build_model
        from fl.models.state import ModelState

        made = build_model(Config(model=model, norm=_norm(model)), classes=10, in_channels=3, image_size=32, seed=0)
        layout = ModelState(made, torch.device("cpu")).layout
        updates = [torch.randn(layout.total, generator=torch_generator(0, "noise", c)) for c in range(clients)]
        words = "normal noise"
    else:
        layout, updates = _train(model, data_dir, clients)
        words = f"clients' updates after {STEPS} local steps on CIFAR-10"
    tensors = {}
    for client, update in enumerate(updates):
        for at, (name, view) in enumerate(zip(layout.names, layout.views(update), strict=True)):
            tensors[f"{client} {at:04d} {name}"] = view.clone()
    save_file(tensors, path)
    return words


def read_updates(path: Path) -> tuple[Layout, list[Tensor]]:
    """The layout and the updates, fp32 [n] each, that `write_updates` wrote."""
    tensors = load_file(path)
    clients = 1 + max(int(key.split(" ")[0]) for key in tensors)
    keys = [sorted(key for key in tensors if key.startswith(f"{client} ")) for client in range(clients)]
    layout = Layout.of((key.split(" ")[2], tensors[key]) for key in keys[0])
    return layout, [torch.cat([tensors[key].flatten() for key in own]) for own in keys]


def _norm(model: str) -> str:
    """Group norm, which has no statistics to send besides, where the model has a choice."""
    return "group" if model in ("resnet18", "resnet50") else "batch"


def _train(model: str, data_dir: str, clients: int) -> tuple[Layout, list[Tensor]]:
    from fl.common.config import Config
    from fl.common.ranks import join_ranks
    from fl.models.update import Job
    from fl.run.build import assemble
    from fl.run.checks import resolve
    from fl.training.local_model import WholeModel

    options = {"dataset": "cifar10", "data_dir": data_dir, "download": False, "limit_train": 2000 * clients}
    training = {"local_steps": STEPS, "batch_size": 32, "lr": 0.02, "momentum": 0.9, "norm": _norm(model)}
    config = Config(model=model, clients=clients, rounds=1, threads=1, **options, **training)  # type: ignore[arg-type]
    with join_ranks(config) as ranks:
        worker = assemble(resolve(config, world_size=1, threads=1), ranks)
        trainer = worker.make_trainer()
        whole = WholeModel(worker.engine, worker.state)
        updates = [trainer.train(Job(client, 0, 0), whole).values.clone() for client in range(clients)]
        return worker.state.layout, updates
