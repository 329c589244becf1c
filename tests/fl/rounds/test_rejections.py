"""How many clients a round may lose, by hand."""

from dataclasses import dataclass
from typing import Any

import pytest

from fl.comm.message import Rejection
from fl.common.errors import RoundError
from fl.rounds.rejections import Rejections


@dataclass
class _OneRank:
    def owner(self, client: int) -> int:
        return 0


def _lose(rejections: Rejections, clients: int) -> None:
    for client in range(clients):
        rejections.reject(Rejection(client, "it fails"))


@pytest.mark.parametrize(("least", "asked", "may_fail"), [(3, 5, 2), (3, 3, 0), (3, 2, 0), (None, 4, 0)])
def test_where_chance_says_how_many_are_asked(least: int | None, asked: int, may_fail: int) -> None:
    """All but `--min-clients` may fail, and none where no more than that are asked."""
    ranks: Any = _OneRank()
    rejections = Rejections(ranks, least)
    rejections.begin(0, asked, drawn=True)
    _lose(rejections, may_fail)
    with pytest.raises(RoundError, match=f"round 0: client {may_fail} on rank 0: it fails"):
        rejections.reject(Rejection(may_fail, "it fails"))


def test_nobody_is_asked_by_chance_alone() -> None:
    """A round without clients takes place if they are drawn, and is refused otherwise."""
    ranks: Any = _OneRank()
    Rejections(ranks, 3).begin(0, 0, drawn=True)
    with pytest.raises(RoundError, match="0 clients can be asked, not the --min-clients 3"):
        Rejections(ranks, 3).begin(0, 0)
