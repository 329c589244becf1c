"""Networks with attention to prune, with examples of their inputs."""

from typing import Any

import torch
from torch import Tensor, nn

from fl.models.surgery.attention import HeadAttention
from fl.models.surgery.channels import find_groups
from fl.models.surgery.cut import SmallerModel, cut
from fl.models.surgery.group import Group


class Steps(nn.Module):
    """Attention of four heads between two linear layers, with or without a path around it; 7 steps of 5 features."""

    def __init__(self, *, residual: bool = False, bias: bool = True, head_dim: int | None = None) -> None:
        super().__init__()
        self.residual = residual
        self.fc = nn.Linear(5, 12)
        self.attention = HeadAttention(12, 4, head_dim=head_dim, bias=bias)
        self.out = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = torch.tanh(self.fc(x))
        read = self.attention(states)
        return self.out((states + read if self.residual else read).mean(1))


class MentalState(nn.Module):
    """Windows [batch, 20, steps]: convolution with squeeze and excitation, BiLSTM, attention of four heads, two linear
    layers; small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(20, 12, 3, padding=1), nn.BatchNorm1d(12)
        self.squeeze, self.excite = nn.Linear(12, 4), nn.Linear(4, 12)
        self.lstm = nn.LSTM(12, 8, bidirectional=True, batch_first=True)
        self.attention = HeadAttention(16, 4, dropout=0.3)
        self.fc1, self.fc2 = nn.Linear(16, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(2)))))[:, :, None]
        states, _ = self.lstm(x.transpose(1, 2))
        return self.fc2(torch.relu(self.fc1(self.attention(states).mean(1))))


NETWORKS = ("plain", "residual", "without bias", "narrow heads", "mental state")


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A fresh network in evaluation, all weights far from zero, and an example."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        if name == "mental state":
            model: nn.Module = MentalState()
            example = torch.randn(2, 20, 9)
        else:
            head_dim = 2 if name == "narrow heads" else None
            model = Steps(residual=name == "residual", bias=name != "without bias", head_dim=head_dim)
            example = torch.randn(2, 7, 5)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor.mul_(2).add_(torch.rand(tensor.shape) - 0.3)
    return model.eval(), example


def torch_attention(**options: Any) -> nn.MultiheadAttention:
    """Of 12 channels in 4 heads, in evaluation, with biases that are not zero."""
    theirs = nn.MultiheadAttention(12, 4, batch_first=True, **options)
    for name, tensor in theirs.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(tensor)
    return theirs.eval()


def attention_of(model: nn.Module) -> HeadAttention:
    """The attention inside a network."""
    attention = model.get_submodule("attention")
    assert isinstance(attention, HeadAttention)
    return attention


def number_of_heads(groups: tuple[Group, ...]) -> int:
    """Which of the groups are the heads."""
    return [group.makers for group in groups].index(("attention.v",))


def without_two_heads(model: nn.Module, example: Tensor) -> SmallerModel:
    """Heads 1 and 3 of four stay; nothing else is dropped."""
    groups = find_groups(model, example)
    kept = [torch.arange(group.channels) for group in groups]
    number = number_of_heads(groups)
    size = groups[number].block
    kept[number] = torch.cat([torch.arange(size, 2 * size), torch.arange(3 * size, 4 * size)])
    return cut(model, groups, kept)
