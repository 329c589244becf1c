"""Language models: tokens [B, T] in, logits of the token that follows each, [B, T, classes], out."""

import math

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Causal self-attention and a perceptron four times as wide, each behind a LayerNorm and added to what comes in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width, bias=False)
        self.wide = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> the same shape."""
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = x + self._drop(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))
        return x + self._drop(self.narrow(F.gelu(self.wide(self.norm2(x)))))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class GPT(nn.Module):
    """A decoder of pre-norm blocks with learned positions; the embedding of tokens is also the last layer's weight."""

    def __init__(self, classes: int, *, layers: int, heads: int, width: int, context: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.Embedding(classes, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, classes, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                last = name.endswith(("out.weight", "narrow.weight"))  # what is added to the residual stream
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if last else 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Of tokens, int64 [B, T] with T up to the context."""
        x = self.tokens(x) + self.positions.weight[: x.shape[1]]
        x = self.blocks(F.dropout(x, self.dropout, self.training))
        return self.head(self.norm(x))


def gpt(*, classes: int, layers: int, heads: int, width: int, context: int, dropout: float) -> nn.Module:
    """GPT-2's decoder (Radford et al. 2019) without biases: classes x width + context x width + layers x (12 width^2 +
    2 width) + width parameters, 804,096 for 65 characters with the default options."""
    return GPT(classes, layers=layers, heads=heads, width=width, context=context, dropout=dropout)


class CharLSTM(nn.Module):
    """An embedding, LSTM layers, and a linear map of the state at every token."""

    def __init__(self, classes: int, embedding: int = 8, hidden: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(classes, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Of tokens, int64 [B, T]."""
        states, _ = self.lstm(self.tokens(x))
        return self.head(states)


def char_lstm(*, classes: int) -> nn.Module:
    """LEAF's network for Shakespeare (Caldas et al. 2018): two LSTM layers of 256 units over embeddings of 8, 798,720 +
    265 x classes parameters. It predicts every next character, as in Reddi et al. (2020), not only the one after
    the last.

    Keras counts 2,048 less: torch's LSTM has two bias vectors a gate, which are only ever added.
    """
    return CharLSTM(classes)
