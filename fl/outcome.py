"""What rank 0 learns of a round."""

from dataclasses import dataclass, field

import torch

from .ranks import Ranks

COLUMNS = 5


@dataclass(frozen=True)
class ClientReport:
    """What rank 0 learns of a client's round besides its update."""

    client: int
    samples: int
    train_loss: float
    train_s: float
    uplink_bytes: int
    kept: int

    def row(self) -> list[float]:
        """The numbers that travel, all exact in float64."""
        return [self.uplink_bytes, self.samples, self.train_loss, self.train_s, self.kept]

    @classmethod
    def of_row(cls, client: int, row: list[float]) -> "ClientReport":
        """The inverse of `row`."""
        size, samples, loss, seconds, kept = row
        return cls(client, int(samples), loss, seconds, int(size), int(kept))


@dataclass
class RoundOutcome:
    """A finished round: a report for each client in cohort order, and the size of what the server sent."""

    reports: list[ClientReport] = field(default_factory=list)
    change_bytes: int = 0
    buffers_bytes: int = 0
    update_norm: float = 0.0
    received_bytes: dict[int, int] = field(default_factory=dict)  # from other clients, where a hook exchanges them
    exchanges: int = 0  # between clients, through a hook
    mask_bytes: int = 0  # of the mask that began the round, if one did
    held: int | None = None  # coordinates inside the mask

    def gather(self, ranks: Ranks, report: ClientReport, received_bytes: int) -> None:
        """Where every rank is one client: collect each one's report and what it received from the others; collective."""
        table = torch.zeros(ranks.world_size, COLUMNS + 1, dtype=torch.float64)
        table[ranks.rank] = torch.tensor([*report.row(), received_bytes], dtype=torch.float64)
        for client, row in enumerate(ranks.sum(table).tolist()):
            self.reports.append(ClientReport.of_row(client, row[:-1]))
            self.received_bytes[client] = int(row[-1])
