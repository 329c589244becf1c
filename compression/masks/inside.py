"""Coding inside a mask: a vector's held coordinates as a vector of their own, which any codec encodes.

Both sides know the mask, so positions inside it are all that a payload has to say.
"""

import torch
from torch import Tensor

from ..bits import flat_nonzero
from ..layout import Layout
from ..wire import Sparse


class MaskedLayout:
    """The coordinates that `mask`, bool [n], holds of a vector of `layout` [n]; m of them.

        inside = MaskedLayout(mask, layout)
        payload, decoded = sender.encode(inside.gather(update), inside.layout)
        inside.lift(decoded)     # the same over all n coordinates

    `n`: coordinates in all. `mask`: as given. `support`: the held coordinates, ascending int64 [m]. `layout`: names and
    held counts of the tensors; each keeps its number of dimensions, all but the first of size 1, because codecs tell
    kinds of layers by it.
    """

    def __init__(self, mask: Tensor, layout: Layout) -> None:
        if mask.dtype is not torch.bool or mask.shape != (layout.total,):
            raise ValueError(
                f"a mask of this model is a bool vector of {layout.total}, not {mask.dtype} of {tuple(mask.shape)}"
            )
        self.mask = mask
        self.n = layout.total
        self.support = flat_nonzero(mask)
        # All tensors at once: on a GPU it is one transfer instead of one a tensor.
        counts = torch.searchsorted(self.support, torch.tensor(layout.offsets, device=mask.device)).diff().tolist()
        shapes = ((held, *(1 for _ in shape[1:])) for held, shape in zip(counts, layout.shapes, strict=True))
        self.layout = Layout(layout.names, tuple(shapes))

    def gather(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The held coordinates of `x` [n] -> [m], in `out` if it is given."""
        self._check(x, self.n)
        return torch.index_select(x, 0, self.support, out=out)

    def scatter(self, y: Tensor, out: Tensor | None = None) -> Tensor:
        """`y` [m] at the held coordinates, zero elsewhere -> [n], in `out` if it is given."""
        self._check(y, self.layout.total)
        whole = y.new_zeros(self.n) if out is None else out.zero_()
        return whole.index_copy_(0, self.support, y)

    def lift(self, sparse: Sparse) -> Sparse:
        """A vector over the m held coordinates as one over all n; the values share their memory, and may the positions."""
        if sparse.n != self.layout.total:
            raise ValueError(f"a vector of {sparse.n} coordinates; the mask holds {self.layout.total}")
        indices = self.support if sparse.indices is None else self.support[sparse.indices]
        return Sparse(self.n, indices, sparse.values)

    @staticmethod
    def _check(x: Tensor, count: int) -> None:
        if x.shape != (count,):
            raise ValueError(f"a vector of shape {tuple(x.shape)}; this mask goes with one of {count} coordinates")
