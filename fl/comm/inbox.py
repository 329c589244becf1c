"""Messages in flight, kept until the virtual time of their arrival."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fl.models.state import ModelState
from fl.models.submodel import Submodel

from .message import SECTIONS, ClientReport, Message, Rejection


@dataclass(frozen=True)
class Pending:
    """A client's message in flight, and the submodel that it is about."""

    message: Message
    submodel: Submodel


class Inbox:
    """The messages of clients in flight.

    `reports`: by client, the same on every rank, and `rejections` of those whose update does not count: their time is up
    when it would have arrived. On the ranks that serve also `pending`, the messages by client and number of its start,
    and on rank 0 `versions` of the global model, [n], that clients in flight started from, if models are mixed.
    """

    def __init__(self, state: ModelState) -> None:
        self.state = state
        self.reports: dict[int, ClientReport] = {}
        self.rejections: dict[int, Rejection] = {}
        self.pending: dict[tuple[int, int], Pending] = {}
        self.versions: dict[int, Tensor] = {}
        self.commit()

    def drop(self, client: int, number: int) -> None:
        """A message does not arrive, or is discarded."""
        self.pending.pop((client, number), None)

    def sent_bytes(self, client: int) -> int:
        """Bytes that a client sends, or has sent."""
        if client in self.rejections:
            return self.rejections[client].sent_bytes
        return self.reports[client].uplink_bytes

    def forget(self, client: int) -> None:
        """The client is no longer in flight."""
        self.reports.pop(client, None)
        self.rejections.pop(client, None)

    def keep_versions(self, versions: Iterable[int]) -> None:
        """Forget every other version: no client in flight started from it."""
        wanted = set(versions)
        self.versions = {version: model for version, model in self.versions.items() if version in wanted}

    def commit(self) -> None:
        """The round has succeeded."""
        self._before = dict(self.reports), dict(self.rejections), dict(self.pending), dict(self.versions)

    def rollback(self) -> None:
        """The round has failed: everything as it was at the last `commit`."""
        reports, rejections, pending, versions = self._before
        self.reports, self.rejections = dict(reports), dict(rejections)
        self.pending, self.versions = dict(pending), dict(versions)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, on rank 0."""
        pending = {
            f"{client}-{number}": {**each.message.sections, **each.submodel.state_dict()}
            for (client, number), each in self.pending.items()
        }
        return {
            "reports": [[client, *report.row()] for client, report in sorted(self.reports.items())],
            "rejections": [[each.client, each.reason, each.sent_bytes] for _, each in sorted(self.rejections.items())],
            "pending": pending,
            "versions": {str(version): model for version, model in self.versions.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], *, buffers: Tensor | None, serves: bool) -> None:
        """Continue from `state_dict()`; `buffers`: those that every message is about (`Submodel.buffers`)."""
        self.reports = {client: ClientReport.of_row(client, row) for client, *row in state["reports"]}
        self.rejections = {client: Rejection(client, *rest) for client, *rest in state["rejections"]}
        if serves:
            device, layout = self.state.parameters.device, self.state.layout
            for start, sections in state["pending"].items():
                client, number = map(int, start.split("-"))
                own = {section: tensor.to(device) for section, tensor in sections.items()}
                submodel = Submodel.of_state(own, layout, buffers)
                message = Message(self.reports[client], {name: own[name] for name in SECTIONS if name in own})
                self.pending[client, number] = Pending(message, submodel)
            self.versions = {int(version): model.to(device) for version, model in state["versions"].items()}
        self.commit()
