"""The interface of client and server algorithms; by itself it is federated averaging.

In a round, in this order, `client` being one that the rank hosts:

a client's rank     begin, correction in every local step, on_client; its update is encoded; sent
rank 0              receive for each client in cohort order, on_server, and after the server's step broadcast
every rank          apply_broadcast where there is one, then commit, or rollback if the round has failed

What the server remembers changes in `commit` and `apply_broadcast` only. What a client keeps is handed to `begin` and
`sent`, which returns what it keeps from then on, if the round succeeds.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from compression.wire import Sparse


class Algorithm:
    """Federated averaging (McMahan et al. 2017, Algorithm 1); the others override what they do differently.

    Vectors are fp32 [n], laid out as the global parameters. An update is global minus local.
    """

    corrects: ClassVar[bool] = False
    """Whether `correction` has anything to add: only then do gradients need a hook."""
    kept_vectors: ClassVar[int] = 0
    """How many vectors [n] a client keeps between rounds."""

    def begin(self, client: int, weights: Tensor, steps: int, lr: float, own: Mapping[str, Tensor]) -> None:
        """`client` starts `steps` local steps at `lr` from the global `weights`, which nobody changes before
        `on_client`. `own`: what it keeps, by name, on any device and only to be read; empty the first time."""

    def correction(self, at: int, parameter: Tensor) -> Tensor | None:
        """What is added to the gradient of `parameter`, number `at` of the layout, in its shape; None: nothing.

        For a parameter's gradient hook, which must come before one that masks the gradient. The tensor may be written
        over at the next call for the same parameter.
        """
        return None

    def on_client(self, client: int, update: Tensor) -> Tensor:
        """The vector that `client` sends instead of its `update` [n], whose memory is used."""
        return update

    def sent(self, client: int, decoded: Sparse, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take the update of `client`, the one that began last, as the server will decode it. Returns what it keeps instead
        of its `own`, new tensors."""
        return {}

    def commit(self) -> None:
        """The round has succeeded: what was received counts."""

    def rollback(self) -> None:
        """The round has failed: nothing that was received since the last `commit` counts."""

    def weight(self, samples: int) -> int:
        """The weight in the mean of a client with `samples`."""
        return samples

    def receive(self, client: int, decoded: Sparse, steps: int, lr: float) -> None:
        """On rank 0: take the decoded update of `client`, made in `steps` local steps at `lr`."""

    def on_server(self, update: Tensor, weights: Sequence[int], steps: Sequence[int]) -> Tensor:
        """The vector that the server's optimizer takes for the mean `update` [n], whose memory is used.

        `weights` and local `steps` of each update that it is the mean of, in the order of the cohort.
        """
        return update

    def broadcast(self) -> Tensor | None:
        """The vector [n] that clients need besides the model from the next round on; None: nothing.

        It replaces the last one, so a client that was away needs only the latest: one dense payload.
        """
        return None

    def apply_broadcast(self, values: Tensor) -> None:
        """Take over what rank 0 broadcast; the tensor is kept."""

    def server_state(self) -> dict[str, Tensor]:
        """What the server remembers, by name, in tensors that are not written over; used on rank 0."""
        return {}

    def load_server_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `server_state`; every rank calls it."""
