"""Updates in flight. Oracle: the inbox before it was written down."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from compression.masks.inside import MaskedLayout
from fl.comm.inbox import Inbox, Pending
from fl.comm.message import ClientReport, Message
from fl.common.tensor_files import join_state, split_state
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel

_CPU = torch.device("cpu")


def _make() -> Inbox:
    return Inbox(ModelState(nn.Linear(6, 4), _CPU))


def _fill(inbox: Inbox, *, buffers: Any = None) -> None:
    """Clients 0, 3 and 12 are on their way; client 3 has a mask, client 12 started for the 11th time."""
    n = inbox.state.layout.total
    for client, number in ((0, 0), (3, 1), (12, 10)):
        sections = {"update": torch.full((5 + client,), client, dtype=torch.uint8), "buffers": torch.ones(2).byte()}
        sizes = {name: section.numel() for name, section in sections.items()}
        report = ClientReport(client, 10, 1 / 3, 0.1, 7, sizes, client != 3)
        inside = MaskedLayout(torch.arange(n) % 4 > 0, inbox.state.layout) if client == 3 else None
        inbox.reports[client] = report
        inbox.pending[client, number] = Pending(Message(report, sections), Submodel(inside, buffers))
    inbox.versions = {2: torch.arange(float(n)), 5: torch.ones(n)}


def _plain(inbox: Inbox) -> dict[str, Any]:
    return {
        "reports": dict(inbox.reports),
        "pending": {
            key: (
                each.message.report,
                {name: section.tolist() for name, section in each.message.sections.items()},
                None if each.submodel.inside is None else each.submodel.inside.mask.tolist(),
            )
            for key, each in inbox.pending.items()
        },
        "versions": {version: model.tolist() for version, model in inbox.versions.items()},
    }


def _written(inbox: Inbox) -> dict[str, Any]:
    tensors, rest = split_state(inbox.state_dict())
    return join_state(tensors, json.loads(json.dumps(rest)))


@pytest.mark.parametrize("buffers", [None, torch.tensor([1])], ids=["all", "some"])
def test_it_survives_tensors_and_json(buffers: Any) -> None:
    """Reports to the last bit, sections, masks and versions; an empty one too. The buffers are the plan's to know."""
    inbox, other = _make(), _make()
    other.load_state_dict(_written(inbox), buffers=buffers, serves=True)
    assert _plain(other) == _plain(inbox)
    _fill(inbox, buffers=buffers)
    other.load_state_dict(_written(inbox), buffers=buffers, serves=True)
    assert _plain(other) == _plain(inbox)
    assert all(each.submodel.buffers is buffers for each in other.pending.values())
    other.rollback()
    assert _plain(other) == _plain(inbox), "what was loaded is what a failed round goes back to"


def test_other_ranks_load_the_reports_alone() -> None:
    """They know who is on the way, and with how many bytes."""
    inbox, other = _make(), _make()
    _fill(inbox)
    other.load_state_dict(_written(inbox), buffers=None, serves=False)
    assert (other.reports, other.pending, other.versions) == (inbox.reports, {}, {})


def test_a_failed_round_changes_nothing() -> None:
    """Messages that came, went or were dropped in it, and versions forgotten in it, are as before; twice."""
    inbox = _make()
    _fill(inbox)
    inbox.commit()
    before = _plain(inbox)
    for _ in range(2):
        inbox.drop(0, 0)
        inbox.drop(7, 0)  # has sent nothing
        inbox.keep_versions([5, 9])
        del inbox.reports[12]
        report = ClientReport(1, 1, 0.0, 0.0, 1, {"update": 1})
        inbox.reports[1] = report
        inbox.pending[1, 0] = Pending(Message(report, {"update": torch.ones(1).byte()}), WHOLE)
        assert list(inbox.versions) == [5]
        assert list(inbox.pending) == [(3, 1), (12, 10), (1, 0)]
        inbox.rollback()
        assert _plain(inbox) == before
