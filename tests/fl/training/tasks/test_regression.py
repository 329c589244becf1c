"""Oracles: scikit-learn's metrics, PyTorch's mean squared error, figures by hand."""

import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional as F

from fl.common.errors import ConfigError
from fl.training.tasks import Regression

TASK = Regression(20.0, 8.0)


def test_metrics_are_those_of_scikit_learn() -> None:
    """On temperatures far from 0, where scikit-learn's relative error leaves nothing out either."""
    generator = torch.Generator().manual_seed(0)
    y = 20 + 4 * torch.rand(1000, generator=generator)
    outputs = (y[:, None] - 20) / 8 + 0.05 * torch.randn(1000, 1, generator=generator)
    predicted = TASK.predict(outputs, outputs)
    found = TASK.measure(predicted, y)
    exact = y.double()
    expected = {
        "mse": metrics.mean_squared_error(exact, predicted),
        "mae": metrics.mean_absolute_error(exact, predicted),
        "mape": metrics.mean_absolute_percentage_error(exact, predicted),
        "r2": metrics.r2_score(exact, predicted),
    }
    assert found == pytest.approx(expected, rel=1e-9)
    assert 0.5 < found["r2"] < 1
    assert found["r2"] == TASK.rate(predicted, y)
    assert set(found) == set(TASK.metrics)


def test_values_near_zero_have_no_relative_error() -> None:
    """By hand: a tenth of the deviation is 0.8; of 0.5, 0.8 and -10 the last two count: (0.4 / 0.8 + 1 / 10) / 2."""
    y = torch.tensor([0.5, 0.8, -10.0])
    predicted = torch.tensor([5.0, 1.2, -9.0], dtype=torch.float64)
    assert TASK.measure(predicted, y)["mape"] == pytest.approx(0.3, abs=1e-7)
    assert TASK.measure(predicted[:1], y[:1])["mape"] is None


def test_r2_by_hand() -> None:
    """The mean of the samples scores 0; always 1 off, of 1, 2, 3 (sum of squares 2), scores 1 - 3 / 2."""
    y = torch.tensor([1.0, 2.0, 3.0])
    assert TASK.rate(torch.full((3,), 2.0, dtype=torch.float64), y) == 0
    assert TASK.rate(y.double() + 1, y) == -0.5
    assert TASK.rate(y.double(), y) == 1
    assert TASK.rate(y[:1].double(), y[:1]) is None  # nothing varies
    assert TASK.rate(y[:0].double(), y[:0]) is None
    assert TASK.rate(torch.tensor([1.0, float("inf"), float("nan")], dtype=torch.float64), y) is None  # diverged


@pytest.mark.parametrize("shape", [(4, 1), (4,)])
def test_loss_is_on_the_scaled_target(shape: tuple[int, ...]) -> None:
    """Oracle: PyTorch's mean squared error of outputs and (y - 20) / 8; outputs [N, 1] and [N] alike."""
    outputs, y = torch.randn(4), torch.tensor([12.0, 20.0, 28.0, 24.0])
    expected = F.mse_loss(outputs, torch.tensor([-1.0, 0.0, 1.0, 0.5]))
    assert TASK.loss(outputs.view(shape), y).item() == pytest.approx(expected.item(), rel=1e-6)
    assert TASK.loss_sum(outputs.view(shape), y).item() == pytest.approx(4 * expected.item(), rel=1e-6)
    assert TASK.predict(outputs.view(shape), outputs).tolist() == pytest.approx((outputs.double() * 8 + 20).tolist())


@pytest.mark.parametrize(("model", "found"), [(nn.Linear(5, 2), r"\[2, 2\]"), (nn.LSTM(5, 3), "tuple")])
def test_outputs_that_do_not_fit(model: nn.Module, found: str) -> None:
    """Oracle: refused in one sentence that says what came; [N, 1] and [N] pass."""
    with pytest.raises(ConfigError, match=rf"--model own must give one number for each sample.* not {found}"):
        TASK.check_model("own", model, torch.zeros(2, 5))
    TASK.check_model("own", nn.Linear(5, 1), torch.zeros(2, 5))
    TASK.check_model("own", nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)), torch.zeros(2, 5))
