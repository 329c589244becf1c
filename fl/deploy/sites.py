"""The server's knowledge of its sites: which version of the model each has, and which updates of it count."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fl.comm.message import ClientReport, whole_model
from fl.models.state import ModelState

from .protocol import WHOLE


class Sites:
    """A participant of the round's transaction.

    A site that has an earlier version of the model is sent the changes since then with the newest buffers, or all of the
    model if that is smaller: the bytes that the ledger charges. Changes are kept while together they are no larger than
    the model. A run that goes on knows of no site's version any more, and sends all of the model once.
    """

    def __init__(self, state: ModelState, whole_bytes: int) -> None:
        """`whole_bytes`: of all of the model."""
        self.run = secrets.token_hex(8)
        self.version = 0
        self._state = state
        self._whole_bytes = whole_bytes
        self._has: dict[int, int] = {}  # the version that a client's site has; no entry: not known
        self._changes: list[Tensor] = []  # the last ones, up to `version`
        self._newest: dict[str, Tensor] = {}  # what replaces what was published before: buffers and variate
        self._counted: dict[int, int] = {}
        self._published: Mapping[str, Tensor] | None = None  # in this round
        self._counting: list[int] = []  # a client once for each of its updates
        self._saved: list[dict[int, int]] = []  # `_counted` of the checkpoints that the run may go on from

    def counted(self, client: int) -> int:
        """How many updates of `client` count so far, those of this round included."""
        return self._counted.get(client, 0) + self._counting.count(client)

    def saved(self, client: int) -> list[int]:
        """How many updates of `client` count in the last checkpoint that is complete, and in one that may be; ascending."""
        return sorted({counted.get(client, 0) for counted in self._saved})

    def download(self, client: int, *, trains: bool = True) -> tuple[int, dict[str, Tensor]]:
        """What the site of `client` is sent to have this version of the model, and if it `trains` what it needs besides:
        the version that it leads on from, or WHOLE, and the sections."""
        buffers, variate = (
            {n: each for n, each in self._newest.items() if n == name} for name in ("buffers", "variate")
        )
        further = variate if trains else {}
        since = self._has.get(client, WHOLE)
        missed = self.version - since
        if since != WHOLE and missed <= len(self._changes):
            changes = self._changes[len(self._changes) - missed :]
            if not missed:
                return since, {}
            if sum(each.numel() for each in (*changes, *buffers.values())) <= self._whole_bytes:
                return since, {
                    **{f"change/{since + at}": each for at, each in enumerate(changes)},
                    **buffers,
                    **further,
                }
        return WHOLE, {**whole_model(self._state), **further}

    def has(self, client: int, version: int) -> None:
        """The site of `client` has that version."""
        self._has[client] = version

    def forget(self, client: int) -> None:
        """Nothing is known of what the site of `client` has."""
        self._has.pop(client, None)

    def accepted(self, reports: Iterable[ClientReport]) -> None:
        """The updates of these clients count, if the round succeeds."""
        self._counting += [report.client for report in reports]

    def published(self, sections: Mapping[str, Tensor]) -> None:
        """The round ends in this change."""
        self._published = sections

    def commit(self) -> None:
        """The round has succeeded."""
        for client in self._counting:
            self._counted[client] = self._counted.get(client, 0) + 1
        if self._published is not None:
            self._changes.append(self._published["change"])
            self._newest.update({name: each for name, each in self._published.items() if name != "change"})
            self.version += 1
            while sum(each.numel() for each in self._changes) > self._whole_bytes:
                self._changes.pop(0)
        self._counting, self._published = [], None

    def rollback(self) -> None:
        """The round has failed."""
        self._counting, self._published = [], None

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: nested, tensors and what JSON can hold; called when a checkpoint is begun, which is
        when the one before the last is complete."""
        self._saved = [*self._saved[-1:], dict(self._counted)]
        return {
            "run": self.run,
            "version": self.version,
            "counted": sorted(self._counted.items()),
            "newest": dict(self._newest),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.run, self.version = state["run"], state["version"]
        self._counted, self._newest = dict(state["counted"]), dict(state.get("newest", {}))
        self._has, self._changes, self._saved = {}, [], [dict(self._counted)]
