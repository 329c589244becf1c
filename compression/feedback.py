"""Error feedback for a sender whose vector is handed over in pieces: residuals by parameter name."""

import torch
from torch import Tensor

from .layout import Layout


class Residuals:
    """What a sender has not sent yet, one tensor a parameter name (Seide et al. 2014; Stich et al. 2018).

    DistributedDataParallel regroups parameters into other buckets after its first iteration; residuals are therefore
    kept by name, as views into one flat vector for each group of names that is asked for.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, Tensor] = {}
        self._groups: dict[tuple[str, ...], Tensor] = {}

    def find(self, layout: Layout, like: Tensor) -> Tensor | None:
        """`flat`, or None where nothing is known of any of `layout`'s tensors."""
        return None if self._by_name.keys().isdisjoint(layout.names) else self.flat(layout, like)

    def flat(self, layout: Layout, like: Tensor) -> Tensor:
        """The residuals of `layout`'s tensors as one vector [layout.total] on `like`'s device; zero where there is none.

        The vector is the storage itself until another grouping of the same names is asked for.
        """
        group = self._groups.get(layout.names)
        if group is None or group.device != like.device:
            group = torch.zeros(layout.total, dtype=torch.float32, device=like.device)
            known = [
                (view, self._by_name[name])
                for name, view in zip(layout.names, layout.views(group), strict=True)
                if name in self._by_name
            ]
            for view, old in known:
                if view.numel() != old.numel():
                    raise ValueError(
                        f"a residual of shape {tuple(old.shape)} belongs to no parameter of {tuple(view.shape)}"
                    )
                view.copy_(old.view(view.shape))
            self._set(layout, group)
        return group

    def store(self, layout: Layout, residual: Tensor) -> None:
        """Replace the residuals of `layout`'s tensors by the vector [layout.total]."""
        self._set(layout, residual)

    def _set(self, layout: Layout, group: Tensor) -> None:
        names = set(layout.names)
        self._groups = {key: value for key, value in self._groups.items() if names.isdisjoint(key)}
        self._groups[layout.names] = group
        self._by_name = {**self._by_name, **dict(zip(layout.names, layout.views(group), strict=True))}

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the residuals by parameter name."""
        return {name: tensor.clone() for name, tensor in self._by_name.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Replace all residuals by those of `state`."""
        self._groups = {}
        self._by_name = {name: tensor.clone() for name, tensor in state.items()}
