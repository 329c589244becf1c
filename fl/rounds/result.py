"""What rank 0 learns of a round."""

from dataclasses import dataclass, field

import torch
from torch import nn

from compression.wire import Sparse
from fl.comm.ledger import Holding
from fl.comm.message import COLUMNS, ClientReport
from fl.common.ranks import Ranks
from fl.models.submodel import Part
from fl.output.layers import LayerCounts


@dataclass(frozen=True)
class Wasted:
    """A client whose update was dropped, or had not arrived when the run ended: the bytes that it downloaded and sent all
    the same."""

    client: int
    download_bytes: int
    upload_bytes: int


@dataclass
class RoundOutcome:
    """A finished round: a report for each client in cohort order, and the size of what the server sent."""

    reports: list[ClientReport] = field(default_factory=list)
    change_bytes: int = 0
    buffers_bytes: int = 0
    update_norm: float = 0.0
    received_bytes: dict[int, int] = field(default_factory=dict)  # from other clients, where a hook exchanges them
    # Where updates arrive in their own time: bytes that each client downloaded when it started, its columns of clients.csv
    # and its operations, when the step was, and whose training the step waited for.
    begin_bytes: list[int] | None = None
    times: list[dict[str, float]] | None = None
    flops: list[int] | None = None
    virtual_time_s: float | None = None
    trained: list[int] | None = None
    shares: list[dict[str, float]] = field(default_factory=list)  # further columns of clients.csv, for each report
    memory_bytes: int | None = None  # of the client that needs most, where it is not one of `models`
    wasted: list[Wasted] = field(default_factory=list)
    told_bytes: int = 0  # what clients need besides the model from the next round on
    exchanges: int = 0  # between clients, through a hook
    mask_bytes: int = 0  # of the mask that began the round, if one did
    held: float | None = None  # coordinates inside the mask; where clients differ, their mean
    holdings: dict[int, Holding] | None = None  # where clients hold different parts
    rewound_bytes: int = 0  # of the weights that began the round, if they were others than before
    held_buffers: int | None = None  # of the global model, where all clients hold the same
    told_by: tuple[int, int] | None = None  # the client that chose the mask, and the bytes that it sent for that
    models: list[nn.Module | None] = field(default_factory=list)  # the smaller model of each client, if it had one
    layers: LayerCounts | None = None  # on rank 0 of a run that prunes

    def add(self, update: Sparse, part: Part) -> None:
        """Rank 0 has decoded the update of the next client, which holds `part`."""
        self.models.append(None if part.sub is None else part.sub.model)
        if self.layers is not None:
            self.layers.add(update, part)

    def gather(self, ranks: Ranks, report: ClientReport, received_bytes: int) -> None:
        """Where every rank is one client: collect each one's report and what it received from the others; collective."""
        table = torch.zeros(ranks.world_size, COLUMNS + 1, dtype=torch.float64)
        table[ranks.rank] = torch.tensor([*report.row(), received_bytes], dtype=torch.float64)
        for client, row in enumerate(ranks.sum(table).tolist()):
            self.reports.append(ClientReport.of_row(client, row[:-1]))
            self.received_bytes[client] = int(row[-1])
