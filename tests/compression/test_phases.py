"""Marks of phases. Oracle: the calls that a listener gets, written out."""

import pytest

from compression.phases import listening, phase


class Told:
    """What a listener is told: a name for each beginning, `-` for each end."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def enter(self, name: str) -> None:
        self.calls.append(name)

    def leave(self) -> None:
        self.calls.append("-")


@phase("server")
def _step(depth: int) -> int:
    with phase("code"):
        return _step(depth - 1) if depth else 7


def test_phases_nest_and_end_with_an_error() -> None:
    """Blocks and functions, one inside the other and inside itself; an error ends those that it leaves."""
    told = Told()
    with listening(told):
        assert _step(1) == 7
        with pytest.raises(ValueError), phase("decode"), phase("transfer"):  # noqa: PT011
            raise ValueError
    assert told.calls == ["server", "code", "server", "code", *"----", "decode", "transfer", *"--"]


def test_nobody_listens_outside_the_block() -> None:
    """Before, after, and after a block that ended in an error, a mark tells nobody."""
    told = Told()
    _step(0)
    with pytest.raises(ValueError), listening(told):  # noqa: PT011
        raise ValueError
    _step(0)
    assert told.calls == []
