"""What clients hold out, and what the global model is worth there. Oracles: the definition, one client at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fl.common.ranks import Ranks
from fl.data import Split
from fl.data.normalise import Identity
from fl.training.evaluate import ClientScores, Forward, _together, evaluate, evaluate_clients, hold_out
from fl.training.tasks import BITS_PER_BYTE, Classification
from fl.training.tasks.base import BATCH

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, 0, 1, CPU, CPU, "test", 1)


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6), fraction=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_every_sample_is_either_trained_on_or_held_out(sizes: list[int], fraction: float, seed: int) -> None:
    """The nearest whole number is held out; one of two or more at least, and never the last one."""
    parts = [part + 0 for part in torch.randperm(sum(sizes)).split(sizes)]
    parts = [part.sort().values for part in parts]
    train, held = hold_out(parts, fraction, seed)
    for part, ours, out in zip(parts, train, held, strict=True):
        assert torch.equal(torch.cat((ours, out)).sort().values, part)
        assert torch.equal(ours, ours.sort().values)
        expected = 0 if fraction == 0 or len(part) == 1 else min(max(1, round(fraction * len(part))), len(part) - 1)
        assert len(out) == expected


def test_held_out_by_seed_and_client() -> None:
    """The same seed gives the same samples, another one others; clients with equal samples do not share a draw."""
    parts = [torch.arange(100), torch.arange(100)]
    first, again, other = (hold_out(parts, 0.2, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[1])


@given(st.lists(st.integers(0, 3 * BATCH), max_size=30))
def test_clients_share_batches(sizes: list[int]) -> None:
    """All clients with samples come once, in order, and no two that would not fit into one batch."""
    found = list(_together(sizes, BATCH))
    assert [client for turn in found for client in turn] == [client for client, size in enumerate(sizes) if size]
    assert all(len(turn) == 1 or sum(sizes[client] for client in turn) <= BATCH for turn in found)


def _held() -> tuple[Split, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(1500, 6, generator=generator), torch.randint(3, (1500,), generator=generator))
    return split, list(torch.randperm(1500, generator=generator).split([3, 0, 400, 90, 700, 1, 6, 300]))


def _forward() -> Forward:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5))
    return Forward(model, Identity(), autocast=None, memory_format=torch.contiguous_format)


def test_each_client_as_if_it_were_alone() -> None:
    """Oracle: the evaluation of a split that holds nothing but the client's samples."""
    split, held = _held()
    forward, task = _forward(), Classification(3)
    scores = evaluate_clients(forward, split, held, ALONE, task)
    assert forward.model.training
    for client, part in enumerate(held):
        assert scores.samples[client] == len(part)
        if len(part):
            own = evaluate(forward, split.take(part), ALONE, task).metrics
            assert scores.scores[client] == own["accuracy"]
            assert scores.losses[client] == pytest.approx(own["loss"], rel=1e-5)
        else:
            assert math.isnan(scores.scores[client])
    [first, *_] = rows = scores.rows(7)
    assert [row["client"] for row in rows] == [0, 2, 3, 4, 5, 6, 7]
    assert first == {"round": 7, "client": 0, "samples": 3, "score": scores.scores[0], "loss": scores.losses[0]}


@pytest.mark.parametrize(
    ("samples", "scores", "mean", "worst"),
    [
        ([1, 3], [0.0, 1.0], 0.75, 0.0),
        ([1, 3, 0, 2], [0.5, 0.9, math.nan, math.nan], 0.8, 0.5),
        ([5] * 25, [at / 100 for at in range(25)][::-1], 0.12, 0.005),
        ([5] * 19, [at / 100 for at in range(19)], 0.09, 0.0),
        ([5] * 30, [at / 100 for at in range(30)], 0.145, 0.01),
        ([0, 0], [math.nan, math.nan], None, None),
    ],
)
def test_mean_and_worst(samples: list[int], scores: list[float], mean: float | None, worst: float | None) -> None:
    """By hand: the mean is by samples; the worst tenth of 25 clients are two, of 30 three, of fewer than 20 one."""
    found = ClientScores(np.array(samples), np.array(scores), np.array(scores))
    assert found.mean == (None if mean is None else pytest.approx(mean))
    assert found.worst == (None if worst is None else pytest.approx(worst))


def test_the_worst_of_a_score_that_falls() -> None:
    """Of bits per byte, the most."""
    bits = np.array([2.0, 4.0, 3.0])
    assert ClientScores(np.array([1, 1, 1]), bits, bits, BITS_PER_BYTE).worst == 4.0
