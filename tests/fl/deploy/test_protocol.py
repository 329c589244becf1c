"""What server and sites say to one another. Oracle: what was sent."""

from typing import Any

import pytest
import torch

from compression import PayloadError
from fl.comm.message import ClientReport, Message, Rejection
from fl.deploy.protocol import SiteJob, outcome_record, read_job, read_outcome

_JOB = SiteJob(
    "0123456789abcdef",
    1,
    2,
    2,
    1,
    3,
    [1, 2],
    0.5,
    "leanfed",
    False,
    "{}",
    {"change/1": torch.arange(5, dtype=torch.uint8)},
)
_REPORT = ClientReport(3, 20, 0.5, 1.25, 7, {"update": 3}, moved=False)


def test_a_job_there_and_back() -> None:
    job = read_job(_JOB.record())
    assert vars(job) | {"sections": {}} == vars(_JOB) | {"sections": {}}
    assert torch.equal(job.sections["change/1"], _JOB.sections["change/1"])


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "../../etc"},
        {"run": 5},
        {"client": "1"},
        {"client": True},
        {"since": None},
        {"saved": 2},
        {"share": "1"},
        {"ends": 0},
        {"schema": None},
    ],
)
def test_what_is_no_job(changes: dict[str, Any]) -> None:
    values, sections = _JOB.record()
    with pytest.raises(PayloadError, match=rf"\b{next(iter(changes))}\b"):
        read_job(({**values, **changes}, sections))


def test_a_message_there_and_back() -> None:
    message = Message(_REPORT, {"update": torch.tensor([1, 2, 3], dtype=torch.uint8)})
    back = read_outcome(3, outcome_record(message))
    assert isinstance(back, Message)
    assert back.report == _REPORT
    assert torch.equal(back.sections["update"], message.sections["update"])


def test_a_rejection_there_and_back() -> None:
    assert read_outcome(3, outcome_record(Rejection(3, "no data"))) == Rejection(3, "no data")


_ROW = [float(number) for number in _REPORT.row()]


@pytest.mark.parametrize(
    ("values", "sections"),
    [
        ({}, {}),
        ({"outcome": "message"}, {}),
        ({"outcome": "rejected", "reason": 5}, {}),
        ({"outcome": "message", "report": _ROW[:-1]}, {"update": b"abc"}),
        ({"outcome": "message", "report": [*_ROW, 1.0]}, {"update": b"abc"}),
        ({"outcome": "message", "report": [float("nan"), *_ROW[1:]]}, {"update": b"abc"}),
        ({"outcome": "message", "report": [float("inf"), *_ROW[1:]]}, {"update": b"abc"}),
        ({"outcome": "message", "report": ["20", *_ROW[1:]]}, {"update": b"abc"}),
        ({"outcome": "message", "report": _ROW}, {"updates": b"abc"}),
    ],
)
def test_what_is_no_outcome(values: dict[str, Any], sections: dict[str, bytes]) -> None:
    """A site may send anything: it is a rejection, and never an error of the server's own."""
    assert isinstance(read_outcome(3, (values, sections)), Rejection)


def test_sizes_are_those_of_what_came() -> None:
    """A report cannot say that less was sent."""
    outcome = read_outcome(3, ({"outcome": "message", "report": _ROW}, {"update": b"abcdef"}))
    assert isinstance(outcome, Message)
    assert outcome.report.sizes == {"update": 6}
