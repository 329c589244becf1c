"""Which heads stay, and what stays whole. Oracles: scores and layers by hand."""

import pytest
import torch
from torch import Tensor, nn

from fl.models.surgery.attention import HeadAttention
from fl.models.surgery.channels import find_groups
from fl.models.surgery.dead import remove_dead
from fl.pruning.structured import shrink
from fl.pruning.width import width
from tests.fl.models.surgery.attention_networks import (
    attention_of,
    network,
    number_of_heads,
    torch_attention,
    without_two_heads,
)

pytestmark = pytest.mark.slow


def test_scores_by_hand() -> None:
    """The heads with the largest sums of squares over all that they own win."""
    model, example = network("plain")
    attention = attention_of(model)
    scores = attention.out.weight.detach().square().sum(0)
    for layer in (attention.q, attention.k, attention.v):
        scores = scores + layer.weight.detach().square().sum(1) + layer.bias.detach().square()
    best = scores.view(4, 3).sum(1).argsort(descending=True)[:2].sort().values
    groups = find_groups(model, example)
    number = number_of_heads(groups)
    kept = shrink(model, 0.5, groups=groups).kept[number]
    assert kept.tolist() == (best[:, None] * 3 + torch.arange(3)).flatten().tolist()
    assert len(shrink(model, 0.5, groups=groups, protect=("attention",)).kept[number]) == 12


def test_the_scaler_acts_on_values() -> None:
    """Over the ratio while training, as after any linear layer; the softmax is as sharp as before."""
    model, example = network("plain")
    plain, scaled = width(model, 0.5, example), width(model, 0.5, example, scaler=True)
    fc, attention, out = (plain.model.get_submodule(name) for name in ("fc", "attention", "out"))
    with torch.no_grad():
        for tensor in attention_of(plain.model).v.parameters():
            tensor.div_(0.5)
        expected = out((attention(torch.tanh(fc(example) / 0.5)) / 0.5).mean(1))
        torch.testing.assert_close(scaled.model.train()(example), expected)


def test_dead_heads_are_removed() -> None:
    """Zeros in place of heads 0 and 2 go, and nothing else; a head that reads and is read by one weight stays."""
    model, example = network("mental state")
    without_two_heads(model, example).zero_outside(model)
    reduced = remove_dead(model, example)
    assert reduced is not None
    assert reduced.kept["attention.v"] == [4, 5, 6, 7, 12, 13, 14, 15]
    assert reduced.removed == 8
    with torch.no_grad():
        attention_of(model).out.weight[3, 1] = 1
        attention_of(model).v.weight[1, 0] = 1
    reduced = remove_dead(model, example)
    assert reduced is not None
    assert reduced.removed == 4


def test_what_torch_attends_with_stays() -> None:
    """The channels into nn.MultiheadAttention stay whole; other layers are pruned."""

    class Theirs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(5, 8), nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 2)
            self.attention = torch_attention()

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(torch.relu(self.a(x)))
            return self.d(torch.relu(self.c(self.attention(y, y, y)[0])))

    assert [group.makers for group in find_groups(Theirs(), torch.randn(2, 7, 5))] == [("a",), ("c",)]


def test_what_mixes_heads_is_refused() -> None:
    """The trial notices an attention that does more with its heads than a linear map can stand for."""

    class Normed(HeadAttention):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.softmax(self.v(x), -1))

    with pytest.raises(ValueError, match="mixes its channels"):
        find_groups(nn.Sequential(Normed(12, 4)), torch.randn(2, 7, 12))
