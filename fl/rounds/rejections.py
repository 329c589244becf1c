"""Clients whose updates do not count: how many a round may lose, and who is no longer asked."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from fl.comm.message import ClientReport, Rejection
from fl.common.errors import RoundError
from fl.common.ranks import Ranks

IN_A_ROW = 3
"""A client whose updates are rejected so many times in a row is not asked again."""


class Rejections:
    """The rejections of a round, and of each client how many there were in a row; the same on every rank.

    `least`: clients that must remain of those that a round asks (`--min-clients`); None: all.
    """

    def __init__(self, ranks: Ranks, least: int | None) -> None:
        self.of_round: list[Rejection] = []
        self._ranks = ranks
        self._least = least
        self._in_a_row: dict[int, int] = {}
        self._before: dict[int, int] = {}  # the same, when the last round succeeded
        self._number = self._spare = 0

    def begin(self, number: int, asked: int, *, drawn: bool = False) -> None:
        """Round `number` asks so many clients. RoundError if these are too few already.

        `drawn`: chance says how many, which may be none; all of them must remain where they are no more than that.
        """
        self.of_round, self._number = [], number
        self._spare = 0 if self._least is None else max(0, asked - self._least)
        if asked < (self._least or 1) and not drawn:
            out = self.left_out
            names = ", ".join(map(str, out))
            why = f", since client {names} failed {IN_A_ROW} times in a row and is left out" if out else ""
            raise RoundError(
                f"round {number}: {asked} clients can be asked, not the --min-clients {self._least or 1}{why}"
            )

    def reject(self, rejection: Rejection) -> None:
        """The round goes on without this client. If too many are rejected, its own error on the rank where it was raised,
        and RoundError on the others."""
        client = rejection.client
        self.of_round.append(replace(rejection, error=None))  # whose traceback would keep the model's tensors
        self._in_a_row[client] = self._in_a_row.get(client, 0) + 1
        if len({each.client for each in self.of_round}) <= self._spare:
            return
        where = f"round {self._number}: client {client} on rank {self._ranks.owner(client)}"
        if rejection.error is None:
            raise RoundError(f"{where}: {rejection.reason}")
        with contextlib.suppress(AttributeError):
            rejection.error.add_note(where)
        raise rejection.error

    def accepted(self, reports: Iterable[ClientReport]) -> None:
        """The updates of these clients count."""
        for report in reports:
            self._in_a_row.pop(report.client, None)

    @property
    def left_out(self) -> list[int]:
        """The clients that are not asked again, ascending."""
        return sorted(client for client, times in self._in_a_row.items() if times >= IN_A_ROW)

    def commit(self) -> None:
        """The round has succeeded."""
        self.of_round, self._before = [], dict(self._in_a_row)

    def rollback(self) -> None:
        """The round has failed."""
        self.of_round, self._in_a_row = [], dict(self._before)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {"in_a_row": sorted(self._in_a_row.items())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._in_a_row = dict(state["in_a_row"])
        self.commit()
