"""Oracles: scikit-learn's metrics, PyTorch's cross-entropy, counts by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn
from torch.nn import functional as F

from fl.common.errors import ConfigError
from fl.training.tasks import Classification


@pytest.mark.parametrize(("classes", "occurring", "count"), [(4, 4, 200), (10, 3, 40), (62, 62, 500), (3, 1, 5)])
def test_metrics_are_those_of_scikit_learn(classes: int, occurring: int, count: int) -> None:
    """Also where some classes are neither there nor predicted, which scikit-learn leaves out of the mean too."""
    generator = torch.Generator().manual_seed(classes)
    y = torch.randint(occurring, (count,), generator=generator)
    logits = F.one_hot(y, classes) + torch.randn(count, classes, generator=generator)
    task = Classification(classes)
    predicted = task.predict(logits, torch.zeros(len(logits)))
    found = task.measure(predicted, y)
    assert found["accuracy"] == task.rate(predicted, y) == metrics.accuracy_score(y, predicted.long())
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(y, predicted.long(), average="macro"), abs=1e-12)
    assert set(found) == set(task.metrics)
    confusion = metrics.confusion_matrix(y, predicted.long(), labels=np.arange(classes))
    assert np.array_equal(task.confusion(predicted, y).numpy(), confusion)


def test_loss_is_the_cross_entropy() -> None:
    """Oracle: PyTorch's function; the sum is the mean times the number of samples."""
    logits, y = torch.randn(7, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    task = Classification(3)
    assert torch.equal(task.loss(logits, y), F.cross_entropy(logits, y))
    assert task.loss_sum(logits, y).item() == pytest.approx(7 * F.cross_entropy(logits, y).item(), rel=1e-6)


def test_nothing_to_judge() -> None:
    """No samples, no figures; and classes have numbers for names unless the data set names them."""
    task, nothing = Classification(3), torch.zeros(0)
    assert task.measure(nothing.double(), nothing.long()) == {"accuracy": None, "macro_f1": None}
    assert task.class_names == ("0", "1", "2")
    assert Classification(2, ("no", "yes")).class_names == ("no", "yes")


@pytest.mark.parametrize("model", [nn.Linear(5, 4), nn.Linear(5, 2), nn.Flatten(0), nn.LSTM(5, 3)])
def test_outputs_that_do_not_fit(model: nn.Module) -> None:
    """Oracle: refused in one sentence; the right number passes, in the mode in which it came."""
    with pytest.raises(ConfigError, match="--model own must give one output for each of the 3 classes"):
        Classification(3).check_model("own", model, torch.zeros(2, 5))
    right = nn.Sequential(nn.Linear(5, 3), nn.Dropout())
    Classification(3).check_model("own", right, torch.zeros(2, 5))
    assert right.training


@pytest.mark.parametrize("model", [nn.Linear(4, 3), nn.Conv2d(1, 3, 3), nn.Bilinear(5, 5, 3), nn.Unflatten(1, (2, 3))])
def test_a_model_that_does_not_take_the_samples(model: nn.Module) -> None:
    """Oracle: one sentence with the option and the shape, and the model is left in the mode in which it came."""
    with pytest.raises(ConfigError, match=r"--model own must take a batch of samples of shape \[5\]") as caught:
        Classification(3).check_model("own", model, torch.zeros(2, 5))
    assert "\n" not in str(caught.value)
    assert model.training
