"""The rules of `--aggregate` against the papers' formulas, written out again with NumPy over dense rows."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compression.spec import SpecError
from compression.wire import Sparse
from fl.common.errors import RoundError
from fl.models.state import ModelState
from fl.server.aggregate import Aggregator
from fl.server.rules import aggregate_names, kept, make_aggregator, parse_aggregate

_RULES = ["mean", "median", "trimmed:0.3", "krum:1", "multikrum:1", "clip:2"]


def state_of(n: int) -> ModelState:
    """A model of n parameters and, from a batch norm, four buffers."""
    torch.manual_seed(0)
    return ModelState(nn.Sequential(nn.Linear(n, 1, bias=False), nn.BatchNorm1d(2, affine=False)), torch.device("cpu"))


def sparse(row: np.ndarray) -> Sparse:
    """What is not zero, by index."""
    at = np.flatnonzero(row)
    return Sparse(len(row), torch.from_numpy(at), torch.from_numpy(row[at]))


def add_all(rule: Aggregator, rows: np.ndarray, *, sparsely: bool = False, **options: float) -> None:
    """A round of these updates; a client's buffers are the first of its numbers, four times."""
    rule.reset()
    for at, row in enumerate(rows):
        update = sparse(row) if sparsely else Sparse(len(row), None, torch.from_numpy(row.copy()))
        rule.add(update, Sparse(4, None, torch.full((4,), float(row[0]))), 1 + at, **options)


def expected(text: str, rows: np.ndarray) -> np.ndarray:
    """float64 [n], for clients of 1, 2, 3, ... samples where the rule weighs them."""
    rows, (name, _, number) = rows.astype(np.float64), text.partition(":")
    n, samples = len(rows), np.arange(1, len(rows) + 1)[:, None]
    if name == "mean":
        return (samples * rows).sum(0) / samples.sum()
    if name == "clip":
        factors = [min(1.0, float(number) / np.linalg.norm(row)) if row.any() else 1.0 for row in rows]
        return (samples * np.array(factors)[:, None] * rows).sum(0) / samples.sum()
    if name == "median":
        return np.median(rows, axis=0)
    if name == "trimmed":
        dropped = math.floor(float(number) * n)
        return np.sort(rows, axis=0)[dropped : n - dropped].mean(0)
    f = int(number)
    scores = [sum(sorted(((row - other) ** 2).sum() for j, other in enumerate(rows) if j != i)[: n - f - 2])
              for i, row in enumerate(rows)]  # fmt: skip
    order = sorted(range(n), key=lambda i: (scores[i], i))
    return rows[order[: 1 if name == "krum" else n - f]].mean(0)


@settings(deadline=None, max_examples=40)
@given(clients=st.integers(5, 9), n=st.integers(2, 12), zeros=st.floats(0, 0.9), seed=st.integers(0, 10_000))
@pytest.mark.parametrize("text", _RULES)
def test_rules_are_the_papers(text: str, clients: int, n: int, zeros: float, seed: int) -> None:
    """Dense and sparse updates give the same, with rules that see all updates at once to the bit, however small the chunks;
    buffers obey the same rule. Of two rounds the second counts: nothing of the first is left."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(clients, n)).astype(np.float32)
    rows *= generator.random(size=rows.shape) >= zeros
    rule, results = make_aggregator(text, state_of(n)), []
    add_all(rule, 5 + rows[::-1])
    rule.result()
    for sparsely, numbers in ((False, 2**21), (True, 2**21), (True, 3 * clients), (False, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kept, "_NUMBERS", numbers)
            add_all(rule, rows, sparsely=sparsely)
            aggregate = rule.result()
        results.append(aggregate.update.clone())
        np.testing.assert_allclose(aggregate.update.numpy(), expected(text, rows), rtol=1e-5, atol=1e-6)
        assert aggregate.voted is None
    if not rule.in_stream:
        assert all(torch.equal(result, results[0]) for result in results)
    buffers = expected("mean" if text.startswith("clip") else text, rows)[0]  # clipping is of updates alone
    np.testing.assert_allclose(aggregate.buffers.numpy(), np.full(4, buffers), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "rows", "wanted"),
    [
        ("median", [[3, 1], [1, 5], [2, 9]], [2, 5]),
        ("median", [[3, 1], [1, 5], [2, 9], [10, 7]], [2.5, 6]),
        ("median", [[4, -2]], [4, -2]),
        ("trimmed:0.25", [[3, 1], [1, 5], [2, 9], [10, 7]], [2.5, 6]),
        ("trimmed:0.24", [[3, 1], [1, 5], [2, 9], [10, 7]], [4, 5.5]),
        ("trimmed:0.4", [[4, -2]], [4, -2]),
        ("krum:0", [[2, 2], [0, 0], [2, 2]], [2, 2]),
        ("krum:1", [[4, 0], [0, 0], [1, 0], [2, 0], [3, 0]], [1, 0]),
        ("multikrum:1", [[4, 0], [0, 0], [1, 0], [2, 0], [90, 0]], [1.75, 0]),
    ],
)
def test_by_hand(text: str, rows: list[list[float]], wanted: list[float]) -> None:
    """Odd and even counts, one client, what is rounded down. Krum's ties go to the first: of 4, 0, 1, 2, 3 the two nearest
    of each are at squared distances 5, 5, 2, 2, 2, so 1 is taken."""
    rule = make_aggregator(text, state_of(2))
    add_all(rule, np.array(rows, dtype=np.float32))
    assert rule.result().update.tolist() == wanted


@pytest.mark.parametrize("text", _RULES)
def test_one_client_that_sends_a_hundred_times_its_update(text: str) -> None:
    """Seven clients near one direction of length about 4, the eighth 100 times that, backwards. Oracle: the mean of the
    honest seven. Robust rules stay within a fifth of its length, the mean is thrown ten times as far; a clipped mean is
    at most its norm off."""
    generator = np.random.default_rng(1)
    honest = (1 + 0.1 * generator.normal(size=(7, 16))).astype(np.float32)
    rule = make_aggregator(text, state_of(16))
    add_all(rule, np.concatenate([honest, -100 * honest[:1]]))
    update = rule.result().update.numpy()
    far = np.linalg.norm(update - honest.mean(0)) / np.linalg.norm(honest.mean(0))
    if text == "mean":
        assert far > 10
    elif text.startswith("clip"):
        assert np.linalg.norm(update) <= 2
    else:
        assert far < 0.2


@pytest.mark.parametrize("text", ["median", "trimmed:0.2", "krum:0", "multikrum:0"])
def test_an_old_update_counts_for_less(text: str) -> None:
    """All clients send the same, scaled by a half; their buffers are a quarter of theirs and three of the model's, 8."""
    state = state_of(3)
    state.buffers.fill_(8.0)
    rule = make_aggregator(text, state)
    add_all(rule, np.full((3, 3), 4.0, dtype=np.float32), scale=0.5, buffer_scale=0.25)
    aggregate = rule.result()
    assert aggregate.update.tolist() == [2.0] * 3
    assert aggregate.buffers.tolist() == [0.25 * 4 + 0.75 * 8] * 4


def test_krum_refuses_too_few_updates() -> None:
    """Blanchard et al. need 2 F + 2 < n."""
    rule = make_aggregator("krum:1", state_of(2))
    add_all(rule, np.ones((4, 2), dtype=np.float32))
    with pytest.raises(RoundError, match="needs 5 updates for F = 1, and 4 arrived"):
        rule.result()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("medain", "'medain' is no rule to aggregate by; did you mean 'median'"),
        ("median:2", "takes 0"),
        ("trimmed", "takes 1"),
        ("trimmed:0.5", "F must be below 0.5"),
        ("trimmed:-0.1", "between 0 and 0.5"),
        ("krum:1.5", "whole number"),
        ("multikrum:-1", "at least 0"),
        ("clip:0", "NORM must lie between"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str) -> None:
    """One sentence with what would be right."""
    with pytest.raises(SpecError, match=words):
        parse_aggregate(text)


def test_names_for_the_help_text() -> None:
    """As the option is documented in docs/aggregation.md."""
    assert sorted(aggregate_names()) == ["clip:NORM", "krum:F", "mean", "median", "multikrum:F", "trimmed:F"]
