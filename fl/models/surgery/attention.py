"""Self-attention that can hold fewer heads, and its heads as channels that go together.

Michel, Levy and Neubig 2019 ("Are Sixteen Heads Really Better than One?") drop whole heads. A head owns its rows of the
queries, keys and values, and its columns of what reads it. With all of these zero it adds zero to the output.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HeadAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), [batch, steps, embed_dim] -> the same shape.

    Four linear layers: `q`, `k`, `v` of embed_dim -> heads * head_dim and `out` back. torch's nn.MultiheadAttention cannot
    hold fewer heads than embed_dim / head_dim; here their number follows from `q`, so that layers may shrink. For `shrink`
    and `width` a layer's heads go by the name of its `v`. `head_dim`: embed_dim / heads unless given. `dropout`: of the
    attention weights, in training. ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        embed_dim: int,
        heads: int,
        *,
        head_dim: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"an attention needs at least one head, not {heads}")
        if head_dim is None and embed_dim % heads:
            raise ValueError(f"{embed_dim} channels cannot be split into {heads} heads of one size: give head_dim")
        self.head_dim = embed_dim // heads if head_dim is None else head_dim
        self.dropout = dropout
        inner = heads * self.head_dim
        self.q = nn.Linear(embed_dim, inner, bias=bias, device=device, dtype=dtype)
        self.k = nn.Linear(embed_dim, inner, bias=bias, device=device, dtype=dtype)
        self.v = nn.Linear(embed_dim, inner, bias=bias, device=device, dtype=dtype)
        self.out = nn.Linear(inner, embed_dim, bias=bias, device=device, dtype=dtype)

    @property
    def heads(self) -> int:
        """How many heads it holds now."""
        return self.q.out_features // self.head_dim

    def forward(self, x: Tensor) -> Tensor:
        """Every step attends to all steps of its sequence; [batch, steps, embed_dim] each."""
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        read = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(read.transpose(1, 2).flatten(2))

    def extra_repr(self) -> str:
        """What its layers do not say."""
        return f"head_dim={self.head_dim}, dropout={self.dropout}"


class HeadsOf(nn.Linear):
    """Stands for `q`, `k` and `v` of the attention called `owner` while a model is traced.

    `weights`, `biases`: full names of their tensors.
    """

    def __init__(self, attention: HeadAttention, owner: str) -> None:
        q = attention.q
        super().__init__(q.in_features, q.out_features, bias=False, device=q.weight.device, dtype=q.weight.dtype)
        self.head_dim = attention.head_dim
        prefix = owner + "." if owner else ""
        self.weights = [f"{prefix}{name}.weight" for name in "qkv"]
        self.biases = [f"{prefix}{name}.bias" for name in "qkv" if attention.get_submodule(name).bias is not None]

    def reset_parameters(self) -> None:
        """Ones: a drawn number would change the global random state, and values do not matter."""
        nn.init.ones_(self.weight)


def linear_heads(model: nn.Module) -> nn.Module:
    """`model` with every HeadAttention replaced, in place, by two linear maps: channels to heads to channels.

    torch-pruning cannot follow channels through heads, and only the question what feeds what matters.
    """
    for name, module in list(model.named_modules()):
        if not isinstance(module, HeadAttention):
            continue
        stand_in = nn.Sequential(OrderedDict(v=HeadsOf(module, name), out=module.out))
        if not name:
            return stand_in
        model.set_submodule(name, stand_in)
    return model
