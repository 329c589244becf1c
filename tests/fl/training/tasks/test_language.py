"""The language task against its formulas in NumPy."""

import numpy as np
import pytest
import torch

from fl.training.tasks import Language, score_of

TASK = Language(5, bytes_per_token=2.0)


def _batch() -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Logits [3, 4, 5], targets [3, 4], and -log softmax at the targets in NumPy, [3, 4]."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 4, 5, generator=generator)
    y = torch.randint(5, (3, 4), generator=generator)
    logits = outputs.double().numpy()
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return outputs, y, -np.take_along_axis(logs, y.numpy()[..., None], -1)[..., 0]


def test_loss_and_metrics() -> None:
    """Mean cross-entropy; perplexity exp(loss); bits per byte loss / ln 2 / bytes per token."""
    outputs, y, nats = _batch()
    assert float(TASK.loss(outputs, y)) == pytest.approx(nats.mean(), rel=1e-5)
    assert float(TASK.loss_sum(outputs, y)) == pytest.approx(nats.mean(1).sum(), rel=1e-5)
    predictions = TASK.predict(outputs, y)
    assert predictions.tolist() == pytest.approx(nats.mean(1).tolist(), rel=1e-5)
    found = TASK.measure(predictions, y)
    assert found["perplexity"] == pytest.approx(np.exp(nats.mean()), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats.mean() / np.log(2) / 2, rel=1e-5)


def test_a_model_that_has_diverged() -> None:
    """No figure is made of what is not finite."""
    assert TASK.measure(torch.tensor([float("nan")], dtype=torch.float64), torch.zeros(1, 4)) == {
        "perplexity": None,
        "bits_per_byte": None,
    }


def test_fewer_bits_are_better() -> None:
    """The score's sign: the lowest value has the highest gain, and gain undoes itself."""
    score = score_of(["val_bits_per_byte"])
    values = np.array([2.0, 1.0, 3.0])
    assert int(score.gain(values).argmax()) == 1
    assert score.gain(score.gain(values)).tolist() == values.tolist()


def test_shapes_that_fit() -> None:
    assert TASK.fits(torch.Size((3, 4, 5)))
    assert not TASK.fits(torch.Size((3, 5, 4)))
    assert not TASK.fits(torch.Size((3, 5)))


def test_few_samples_are_judged_at_once_where_tokens_are_many() -> None:
    """Their logits, 4 bytes each, take at most 128 MiB, or are those of one sample; few tokens are judged as images are."""
    for tokens, length in ((50_257, 128), (8_000, 512), (50_257, 4096)):
        most = Language(tokens, 4.0).at_once(torch.zeros(3, length))
        assert most == 1 or most * length * tokens * 4 <= 128 * 2**20
        assert (most + 1) * length * tokens * 4 > 128 * 2**20
    assert TASK.at_once(torch.zeros(3, 64)) == 500
