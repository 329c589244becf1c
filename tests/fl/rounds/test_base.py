"""The transaction of a round, by hand."""

import pytest

from fl.rounds.base import transaction


class _Noting:
    """Notes what it is told; `breaks`: its rollback fails."""

    def __init__(self, name: str, notes: list[str], *, breaks: bool = False) -> None:
        self._name, self._notes, self._breaks = name, notes, breaks

    def commit(self) -> None:
        self._notes.append(f"{self._name} commits")

    def rollback(self) -> None:
        self._notes.append(f"{self._name} rolls back")
        if self._breaks:
            raise OSError(f"{self._name} cannot")


def test_all_commit_in_order() -> None:
    """After the block, and not before."""
    notes: list[str] = []
    with transaction([_Noting("a", notes), _Noting("b", notes)]):
        notes.append("a round")
    assert notes == ["a round", "a commits", "b commits"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_all_roll_back_the_last_one_first(error: type[BaseException]) -> None:
    """Whatever ends the block, which the caller then gets."""
    notes: list[str] = []
    with pytest.raises(error, match="the round"), transaction([_Noting("a", notes), _Noting("b", notes)]):
        raise error("the round")
    assert notes == ["b rolls back", "a rolls back"]


def test_a_rollback_that_fails_does_not_spare_the_others() -> None:
    """All roll back; the caller gets the error of the rollback, and behind it that of the round."""
    notes: list[str] = []
    participants = [_Noting("a", notes), _Noting("b", notes, breaks=True), _Noting("c", notes)]
    with pytest.raises(OSError, match="b cannot") as caught, transaction(participants):
        raise ValueError("the round")
    assert notes == ["c rolls back", "b rolls back", "a rolls back"]
    assert isinstance(caught.value.__context__, ValueError)
