"""Evaluation shared out among ranks."""

import torch
from torch import nn
from torch.nn import functional

from fl.data.dataset import Split
from fl.data.normalise import Normaliser
from fl.evaluate import evaluate
from fl.ranks import Ranks
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
    loss, accuracy = evaluate(
        model, Split(x, y), ranks, normalise=normalise, autocast=None, memory_format=torch.contiguous_format
    )
    assert model.training
    model.eval()
    logits = model(normalise(x))
    return loss, accuracy, functional.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


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
