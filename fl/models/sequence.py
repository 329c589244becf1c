"""Networks for windows of rows: [B, length, features]. With `classes` 0 they predict one number, [B, 1]."""

import torch
from torch import Tensor, nn

from .surgery.attention import HeadAttention


class TemperatureLSTM(nn.Module):
    """One LSTM layer, and a linear map of its last state: [B, T, features] -> [B, outputs]."""

    def __init__(self, features: int, outputs: int, hidden: int = 50) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of windows [B, T, features], scaled."""
        states, _ = self.lstm(x)
        return self.fc(states[:, -1])


def temperature_lstm(*, classes: int, features: int, length: int) -> nn.Module:
    """LSTM of 50 units and a linear layer: 11,251 parameters for one number from four features, whatever the length.

    Keras counts 11,051 for the same network: torch's LSTM has two bias vectors a gate, which are only ever added.
    """
    return TemperatureLSTM(features, max(1, classes))


def mlp(*, classes: int, features: int, length: int) -> nn.Module:
    """Two hidden layers of 64 units over all values of a window; for tables whose rows stand for themselves (length 1)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(length * features, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, max(1, classes)),
    )


class SqueezeExcite(nn.Module):
    """Squeeze and excitation (Hu, Shen and Sun 2018): every channel of [B, C, T] times a gate in 0 ... 1.

    The gates come from the channels' means over time by two linear layers, C/16 units between them.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // 16))
        self.excite = nn.Linear(max(1, channels // 16), channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> the same shape."""
        gates = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(2)))))
        return x * gates[:, :, None]


class ResidualBlock(nn.Module):
    """Two convolutions with BatchNorm and gates, beside a 1x1 convolution: [B, C, T] -> [B, channels, T/2 rounded up]."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm1d(channels)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm1d(channels)
        self.gate = SqueezeExcite(channels)
        self.shortcut = nn.Conv1d(in_channels, channels, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, channels, T/2 rounded up]."""
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.gate(self.norm2(self.conv2(y)))
        return torch.relu(y + self.norm(self.shortcut(x)))


class MentalState(nn.Module):
    """Convolutions find shapes, the BiLSTM their order, attention the moments that matter: [B, T, F] -> [B, outputs]."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(features, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(64), nn.ReLU()
        )
        self.blocks = nn.Sequential(ResidualBlock(64, 128), ResidualBlock(128, 256))
        self.lstm = nn.LSTM(256, 64, batch_first=True, bidirectional=True)
        self.attention = HeadAttention(128, 4, dropout=0.1)
        self.head = nn.Sequential(
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(128, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of windows [B, T, F], scaled."""
        x = self.blocks(self.stem(x.transpose(1, 2)))
        states, _ = self.lstm(x.transpose(1, 2))
        # side by side, not added: in a sum the channels of both directions of the LSTM could only be dropped together
        return self.head(torch.cat([states.mean(1), self.attention(states).mean(1)], 1))


def mental_state(*, classes: int, features: int, length: int) -> nn.Module:
    """Residual squeeze-and-excitation convolutions, BiLSTM, attention of four heads, fc 256-128.

    761,885 parameters for five classes of 20 features, 754,459 for three of four, whatever the length. A convolution of
    64 channels and two residual blocks of 128 and 256, each of stride 2: 256 rows are 32 steps for the BiLSTM of 64
    units a direction. Its attention can lose heads and its other layers units (see `fl.models.surgery`).
    """
    return MentalState(features, max(1, classes))
