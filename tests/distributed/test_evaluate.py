"""Evaluation shared out among ranks."""

import torch
from torch import nn
from torch.nn import functional

from fl.common.ranks import Ranks
from fl.data.dataset import Split
from fl.data.normalise import Identity, Normaliser
from fl.training.evaluate import Forward, evaluate, evaluate_clients
from fl.training.tasks import Classification, Regression
from tests.support import on_ranks

CPU = torch.device("cpu")


def figures(rank: int, world_size: int) -> tuple[float, float, float, float]:
    """Loss and accuracy through the program, then by one forward pass over everything."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (1203, 1, 4, 4), dtype=torch.uint8, generator=generator)
    y = torch.randint(0, 3, (1203,), generator=generator)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Dropout(0.5))
    normalise = Normaliser(x)
    ranks = Ranks(rank, world_size, rank, world_size, CPU, CPU, "test", 1)
    forward = Forward(model, normalise, autocast=None, memory_format=torch.contiguous_format)
    metrics = evaluate(forward, Split(x, y), ranks, Classification(3)).metrics
    assert model.training
    model.eval()
    logits = model(normalise(x))
    return (
        metrics["loss"],
        metrics["accuracy"],
        functional.cross_entropy(logits, y).item(),
        (logits.argmax(1) == y).float().mean().item(),
    )


def check(rank: int, world_size: int, alone: tuple[float, float]) -> None:
    """Every rank sees the figures that a single process sees, to the bit."""
    assert figures(rank, world_size)[:2] == alone


def test_figures_are_those_of_one_pass_and_do_not_depend_on_the_ranks():
    """1,203 samples are three batches, the last one short; two ranks get two and one of them. Dropout is off."""
    torch.set_num_threads(1)
    loss, accuracy, expected_loss, expected_accuracy = figures(0, 1)
    assert abs(loss - expected_loss) < 1e-5
    assert abs(accuracy - expected_accuracy) < 1e-6
    on_ranks(2, check, (loss, accuracy))


def other_figures(rank: int, world_size: int) -> tuple[dict[str, float | None], list[float], list[float]]:
    """Metrics of a regression, and the scores and losses of five clients, of which three share a batch."""
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(1203, 6, generator=generator), torch.randn(1203, generator=generator))
    torch.manual_seed(1)
    forward = Forward(nn.Linear(6, 1), Identity(), autocast=None, memory_format=torch.contiguous_format)
    ranks = Ranks(rank, world_size, rank, world_size, CPU, CPU, "test", 1)
    held = list(torch.randperm(1203, generator=generator).split([600, 20, 30, 3, 550]))
    clients = evaluate_clients(forward, split, held, ranks, Regression(0.1, 1.1))
    metrics = evaluate(forward, split, ranks, Regression(0.1, 1.1)).metrics
    return metrics, clients.scores.tolist(), clients.losses.tolist()


def check_others(rank: int, world_size: int, alone: tuple[dict[str, float | None], list[float], list[float]]) -> None:
    """Every rank sees what a single process sees, to the bit."""
    assert other_figures(rank, world_size) == alone


def test_numbers_and_clients_do_not_depend_on_the_ranks():
    """Two ranks take turns in three batches, and in three turns of clients."""
    torch.set_num_threads(1)
    alone = other_figures(0, 1)
    assert all(value is not None for value in alone[0].values())
    on_ranks(2, check_others, alone)
