"""`python benchmarks/attacks.py`: accuracy with every rule of `--aggregate` while a fifth of the clients attack.

MNIST, LeNet-5 with BatchNorm, ten clients with samples alike, of which two attack in every round; the same seed for all.
Every rule knows how many attack, and `clip` about the norm of an honest update of the first round. Six minutes on one core.
"""

import argparse
import contextlib
import csv
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from compression import NonFiniteError
from fl.common.config import Config
from fl.common.errors import RoundError
from fl.common.generators import torch_generator
from fl.common.ranks import join_ranks
from fl.models.update import Job, Update
from fl.run.build import assemble
from fl.run.checks import check_options, resolve
from fl.run.loop import make_rounds
from fl.training.trainer import ClientTrainer

RESULTS = Path(__file__).resolve().parent / "results" / "attacks.csv"
RULES = ("mean", "clip:1", "median", "trimmed:0.2", "krum:2", "multikrum:2")
ATTACKERS = (8, 9)
LABEL_FLIP = "label flip"
OPTIONS: dict[str, Any] = {
    **{"dataset": "mnist", "model": "benchmarks.attacks:network", "clients": 10, "rounds": 20, "local_steps": 10},
    **{
        "batch_size": 32,
        "lr": 0.05,
        "lr_schedule": "cosine",
        "weight_decay": 0.0,
        "precision": "fp32",
        "uplink": "none",
        "val_fraction": 0.0,
    },
    **{"device": "cpu", "threads": 1, "quiet": True},
}


def network(classes: int, in_channels: int) -> nn.Module:
    """LeNet-5 with BatchNorm after its convolutions, for images of 28 x 28."""
    return nn.Sequential(
        *(nn.Conv2d(in_channels, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
    )


def _noise(update: Update, job: Job) -> None:
    length = float(update.values.norm())
    update.values.normal_(generator=torch_generator(0, "attack", job.number, job.client))
    update.values.mul_(100 * length / float(update.values.norm()))


ATTACKS: dict[str, Callable[[Update, Job], object]] = {
    "sign flip": lambda update, job: update.values.mul_(-5),
    "scaling": lambda update, job: update.values.mul_(10),
    "noise": _noise,
    "statistics": lambda update, job: update.buffers.mul_(100),
    LABEL_FLIP: lambda update, job: None,
}
"""What an attacker sends for its update: five times its negative; ten times itself; noise of a hundred times its norm;
BatchNorm statistics a hundred times too large; or what training on labels 9 - y gives."""


@contextlib.contextmanager
def attacked(attack: str, clients: Collection[int]) -> Iterator[None]:
    """In this block these clients attack in this way, in this process."""
    train, batches = ClientTrainer.train, ClientTrainer.batches

    def train_badly(trainer: ClientTrainer, job: Job, model: Any) -> Update:
        update = train(trainer, job, model)
        if job.client in clients:
            ATTACKS[attack](update, job)
        return update

    def read_badly(trainer: ClientTrainer, client: int, *args: Any) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in batches(trainer, client, *args):
            yield x, 9 - y if attack == LABEL_FLIP and client in clients else y

    with patch.object(ClientTrainer, "train", train_badly), patch.object(ClientTrainer, "batches", read_badly):
        yield


def accuracy(config: Config) -> tuple[float, int]:
    """The accuracy on the test set, and after how many rounds: fewer than asked for where no further step can be taken."""
    with join_ranks(config) as ranks:
        check_options(config)
        worker = assemble(resolve(config, world_size=1, threads=ranks.threads), ranks)
        rounds, done = make_rounds(worker), 0
        with contextlib.suppress(RoundError, NonFiniteError):
            for number in range(config.rounds):
                rounds.run(number)
                done += 1
        tested = worker.evaluate(worker.test)
        assert tested is not None
        return float(tested.metrics["accuracy"]), done


def main() -> None:
    """Every rule without an attack and with each of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    rows = []
    for attack in ("none", *ATTACKS):
        for rule in RULES:
            with contextlib.nullcontext() if attack == "none" else attacked(attack, ATTACKERS):
                score, rounds = accuracy(Config(**OPTIONS, aggregate=rule, data_dir=args.data_dir))
            rows.append({"attack": attack, "rule": rule, "accuracy": round(score, 4), "rounds": rounds})
            print(rows[-1], flush=True)
    with open(RESULTS, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
