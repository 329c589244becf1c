"""The interface of client and server algorithms; by itself it is federated averaging.

In a round, in this order, `client` being one that the rank hosts:

a client's rank     begin, correction in every local step, on_client; its update is encoded; sent, or forget if it fails
rank 0              receive for each client in cohort order, on_server, and after the server's step broadcast
every rank          apply_broadcast where there is one, then commit, or rollback if the round has failed

What a client or the server remembers changes in `commit` and `apply_broadcast` only.
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
    has_client_state: ClassVar[bool] = False
    """Whether clients remember anything between rounds."""

    def begin(self, client: int, weights: Tensor, steps: int, lr: float) -> None:
        """`client` starts `steps` local steps at `lr` from the global `weights`, which nobody changes before
        `on_client`."""

    def correction(self, at: int, parameter: Tensor) -> Tensor | None:
        """What is added to the gradient of `parameter`, number `at` of the layout, in its shape; None: nothing.

        For a parameter's gradient hook, which must come before one that masks the gradient. The tensor may be written
        over at the next call for the same parameter.
        """
        return None

    def on_client(self, client: int, update: Tensor) -> Tensor:
        """The vector that `client` sends instead of its `update` [n], whose memory is used."""
        return update

    def sent(self, client: int, decoded: Sparse) -> None:
        """Take the update of `client` as the server will decode it; not to be changed before `commit`."""

    def forget(self, client: int) -> None:
        """What `client` has sent since the last `commit` does not count, and was not received."""

    def commit(self) -> None:
        """The round has succeeded: what was sent and received counts."""

    def rollback(self) -> None:
        """The round has failed: nothing that was `sent` since the last `commit` has arrived."""

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

    def client_state(self, client: int) -> dict[str, Tensor]:
        """Copies of what `client` remembers, by name; empty if it has not taken part."""
        return {}

    def load_client_state(self, client: int, state: Mapping[str, Tensor]) -> None:
        """Continue from `client_state`."""

    def server_state(self) -> dict[str, Tensor]:
        """Copies of what the server remembers, by name; used on rank 0."""
        return {}

    def load_server_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `server_state`; every rank calls it."""
