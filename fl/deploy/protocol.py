"""The messages between server and sites (docs/deploy.md): jobs there, and back what they came to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compression import PayloadError
from fl.comm.message import SECTIONS, ClientReport, Message, Rejection

WHOLE = -1
"""The `since` of a job that brings all of the model."""

Values = dict[str, Any]
"""Numbers, texts and lists of numbers, by name."""
Sections = dict[str, bytes]
"""Payloads by name."""
Record = tuple[Values, Sections]
"""A message as an engine carries it."""


@dataclass(frozen=True)
class SiteJob:
    """One client's job in a round.

    `run`: which run it is of, in hexadecimal. `number`: of the `Job`, which seeds its random choices. `version`: of the
    global model that it starts from. `since`: the version that the `sections` lead on from, or WHOLE. `counted`: how many
    of the client's updates count so far, which says which of its states it goes on from; `saved`: the same at checkpoints,
    whose states it keeps. `share`: of the uplink's coordinates, which it sends. `program`: the sender's own.
    `ends`: the run is over, and the site is to keep this version of the model; there is nothing to train. `schema`: with all
    of the model, how a site with data of its own reads them, as JSON; else empty.
    """

    run: str
    client: int
    number: int
    version: int
    since: int
    counted: int
    saved: list[int]
    share: float
    program: str
    ends: bool
    schema: str = ""
    sections: Mapping[str, Tensor] = field(default_factory=dict)

    def record(self) -> Record:
        """The job as an engine carries it."""
        values = {name: getattr(self, name) for name in _KINDS}
        return values, to_bytes(self.sections)


_KINDS = {
    **{"run": str, "client": int, "number": int, "version": int, "since": int, "counted": int},
    **{"saved": list, "share": float, "program": str, "ends": bool, "schema": str},
}


def read_job(record: Record) -> SiteJob:
    """The inverse of `SiteJob.record`; PayloadError for what is no job."""
    values, sections = record
    for name, kind in _KINDS.items():
        if type(values.get(name)) is not kind:
            raise PayloadError(f"a job's {name} must be of type {kind.__name__}, not {values.get(name)!r}")
    if not re.fullmatch("[0-9a-f]{16}", values["run"]):
        raise PayloadError(f"a job names the run {values['run']!r}, which must be of 16 hexadecimal digits")
    return SiteJob(**{name: values[name] for name in _KINDS}, sections=to_tensors(sections))


class Lost(Exception):
    """A site lacks the version of the model that its job leads on from: it needs all of it."""


class Delivered:
    """A site has the final model."""


Outcome = Message | Rejection | Lost | Delivered
"""A client's message, why there is none, or that none was asked for."""


def outcome_record(outcome: Outcome) -> Record:
    """What a job came to, as an engine carries it."""
    if isinstance(outcome, (Lost, Delivered)):
        return {"outcome": type(outcome).__name__.lower()}, {}
    if isinstance(outcome, Rejection):
        return {"outcome": "rejected", "reason": outcome.reason}, {}
    return {"outcome": "message", "report": [float(number) for number in outcome.report.row()]}, to_bytes(
        outcome.sections
    )


def read_outcome(client: int, record: Record) -> Outcome:
    """The inverse of `outcome_record`, of whatever a site may send: a Rejection where that is no outcome.

    The sizes in the report are those of the sections that came.
    """
    values, sections = record
    kind, reason, row = values.get("outcome"), values.get("reason"), values.get("report")
    if kind in ("lost", "delivered"):
        return Lost() if kind == "lost" else Delivered()
    if kind == "rejected" and isinstance(reason, str):
        return Rejection(client, reason)
    is_row = isinstance(row, list) and all(isinstance(number, float) for number in row)
    if kind != "message" or not is_row or not sections.keys() <= set(SECTIONS):
        return Rejection(client, "its site sent what is neither a message nor a reason")
    sizes = [len(sections.get(name, b"")) for name in SECTIONS]
    try:
        report = ClientReport.of_row(client, [*(row or [])[: -len(sizes)], *sizes])
    except (ValueError, OverflowError):
        return Rejection(client, "its site sent a report that is none", sum(sizes))
    return Message(report, to_tensors(sections))


def to_bytes(sections: Mapping[str, Tensor]) -> Sections:
    """Payloads, uint8 tensors on any device, as bytes."""
    return {name: payload.cpu().numpy().tobytes() for name, payload in sections.items()}


def to_tensors(sections: Mapping[str, bytes]) -> dict[str, Tensor]:
    """The inverse of `to_bytes`, on the CPU."""
    return {
        name: torch.frombuffer(bytearray(payload), dtype=torch.uint8) if payload else torch.empty(0, dtype=torch.uint8)
        for name, payload in sections.items()
    }
