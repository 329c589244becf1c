"""Networks to prune, with examples of their inputs."""

import functools
from typing import Literal

import torch
from torch import Tensor, nn

from compression import Layout
from fl.models import small
from fl.models.emotion import emotion_cnn
from fl.models.resnet import resnet, resnet12
from fl.models.vgg import vgg11

NETWORKS = (
    "lenet5",
    "simple_cnn",
    "pfl_cnn",
    "emotion_cnn",
    "vgg11",
    "resnet12",
    "resnet18 batch",
    "resnet18 group",
    "resnet50 batch",
    "resnet50 group",
    *(f"{kind} {reads}" for kind in ("lstm", "bilstm") for reads in ("last", "mean", "attention")),
    "lstm hidden",
    "bilstm hidden",
    "lstm2 last",
    "bilstm2 last",
    "bilstm2 hidden",
)


class Sequences(nn.Module):
    """A classifier of token sequences: embedding 12, LSTM of 10 hidden units, fc 8, fc 3."""

    def __init__(self, *, bidirectional: bool, layers: int, reads: str) -> None:
        super().__init__()
        self.reads, self.directions = reads, 1 + bidirectional
        self.embedding = nn.Embedding(20, 12)
        self.lstm = nn.LSTM(12, 10, layers, bidirectional=bidirectional, batch_first=True)
        self.score = nn.Linear(10 * self.directions, 1)
        self.fc = nn.Linear(10 * self.directions, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, (hidden, _) = self.lstm(self.embedding(tokens))
        if self.reads == "last":
            read = states[:, -1]
        elif self.reads == "mean":
            read = states.mean(1)
        elif self.reads == "hidden":
            read = torch.cat([hidden[-d] for d in range(self.directions, 0, -1)], 1)
        else:
            read = (torch.softmax(self.score(torch.tanh(states)), 1) * states).sum(1)
        return self.out(torch.relu(self.fc(read)))


def images(channels: int, side: int) -> Tensor:
    """A batch of two."""
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


@functools.cache
def network(name: str) -> tuple[nn.Module, Tensor]:
    """The network of that name, in evaluation, with norms and statistics that are not what they are at first; and an
    example. Shared between tests: do not change it."""
    kind, _, how = name.partition(" ")
    example = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if "lstm" in kind:
            layers = 2 if kind.endswith("2") else 1
            model: nn.Module = Sequences(bidirectional=kind.startswith("bi"), layers=layers, reads=how)
        elif kind in ("resnet18", "resnet50"):
            depth: Literal[18, 50] = 18 if kind == "resnet18" else 50
            norm: Literal["batch", "group"] = "group" if how == "group" else "batch"
            model, example = resnet(depth, classes=10, in_channels=3, norm=norm), images(3, 8)
        elif kind == "resnet12":
            model, example = resnet12(classes=10, in_channels=3), images(3, 8)
        else:
            channels, side = (3, 32) if kind in ("pfl_cnn", "vgg11", "emotion_cnn") else (1, 28)
            make = {"vgg11": vgg11, "emotion_cnn": emotion_cnn}.get(kind) or getattr(small, kind)
            model = make(classes=10, in_channels=channels, image_size=side)
            example = images(channels, side)
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.dim() == 1:
                    tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return model.eval(), example


def flat_of(model: nn.Module) -> Tensor:
    """All trainable parameters, fp32 [n]."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    layout = Layout.of(named)
    return layout.gather([p for _, p in named], torch.empty(layout.total))


def buffers_of(model: nn.Module) -> Tensor:
    """All floating-point buffers, fp32."""
    return torch.cat([torch.empty(0), *(b.flatten() for b in model.buffers() if b.is_floating_point())])
