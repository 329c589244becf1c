"""layer_times. Oracles: operations by hand, and `flops`, torch's own count of the whole pass."""

import pytest
import torch
from torch import Tensor, nn

from fl.models.surgery.flops import flops, layer_times
from tests.fl.models.surgery.networks import NETWORKS, network


def test_by_hand() -> None:
    """A convolution's weight is read 2 times for each of 6 x 6 positions, its bias once; a linear layer's 2 and 1."""
    assert layer_times(nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 8, 8)).tolist() == [72, 36]
    assert layer_times(nn.Conv2d(4, 4, 3, groups=4, stride=2), torch.zeros(1, 4, 9, 9)).tolist() == [32, 16]
    assert layer_times(nn.Linear(5, 7), torch.zeros(3, 5)).tolist() == [2, 1]
    assert layer_times(nn.Linear(5, 7), torch.zeros(3, 11, 5)).tolist() == [22, 11]


def test_norms_embeddings_and_lstms() -> None:
    """One for every number that comes out; an LSTM of 7 steps reads its weights 14 times and its biases 7."""
    x = torch.zeros(2, 4, 3, 3)
    assert layer_times(nn.BatchNorm2d(4), x).tolist() == [9, 9]
    assert layer_times(nn.GroupNorm(2, 4), x).tolist() == [9, 9]
    assert layer_times(nn.LayerNorm(5), torch.zeros(2, 6, 5)).tolist() == [6, 6]
    # 6 tokens of a sample spread over 8 rows.
    assert layer_times(nn.Embedding(8, 3), torch.zeros(2, 6, dtype=torch.int64)).tolist() == [6 / 8]
    assert layer_times(nn.LSTM(5, 6, batch_first=True), torch.zeros(2, 7, 5)).tolist() == [14, 14, 7, 7]


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.unread = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def test_attention_and_what_is_never_read() -> None:
    """Five positions: weights are read 10 times, biases 5, though torch calls no layer for them; an unread tensor 1."""
    model = _Attention()
    times = dict(zip(dict(model.named_parameters()), layer_times(model, torch.zeros(2, 5, 8)).tolist(), strict=True))
    weights = {"attention.in_proj_weight": 10, "attention.out_proj.weight": 10}
    assert times == {**weights, "attention.in_proj_bias": 5, "attention.out_proj.bias": 5, "unread": 1}


@pytest.mark.parametrize("name", NETWORKS)
def test_adds_up_to_the_whole_pass(name: str) -> None:
    """Sum over weight matrices of times and coordinates is the number of operations of a sample.

    Aside from embeddings, and from the score of attention where a network has no attention and never reads it.
    """
    model, example = network(name)
    aside = ("embedding",) if "attention" in name else ("embedding", "score")
    times = layer_times(model, example)
    assert times.dtype == torch.float64
    assert (times > 0).all()
    total = sum(
        float(time) * p.numel()
        for time, (parameter, p) in zip(times, model.named_parameters(), strict=True)
        if p.dim() >= 2 and not parameter.startswith(aside)
    )
    assert total == pytest.approx(flops(model, example) / len(example), rel=1e-12)


def test_trainable_only_and_the_model_stays() -> None:
    """Frozen tensors have no time; the model is as it was."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).train()
    model[0].weight.requires_grad_(False)
    assert layer_times(model, torch.zeros(1, 4)).tolist() == [1, 2, 1]
    assert model.training
    assert not model[0].weight.requires_grad
    assert model[1].weight.requires_grad
    assert model[1].weight.device.type == "cpu"
    with pytest.raises(ValueError, match="at least one sample"):
        layer_times(model, torch.zeros(0, 4))
