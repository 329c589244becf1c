"""The result of a round: reports, what clients held and sent, and what is charged."""

from dataclasses import dataclass, field

import torch
from torch import nn

from compression.wire import Sparse
from fl.comm.ledger import SubmodelSize
from fl.comm.message import ClientReport, Rejection
from fl.common.ranks import Ranks
from fl.models.submodel import Submodel
from fl.output.layers import LayerCounts
from fl.pruning.plan import NewMask


@dataclass(frozen=True)
class Dropped:
    """A client whose update was dropped or rejected, or had not arrived when the run ended: the bytes that it downloaded
    and sent all the same. `rejected`: the reason, if it was."""

    client: int
    download_bytes: int
    upload_bytes: int
    rejected: str = ""


@dataclass(frozen=True)
class Charge:
    """The cost of a client's training, known since it started: bytes downloaded, floating-point operations (None where they
    cannot be counted), bytes of memory."""

    download_bytes: int
    flops: int | None
    memory_bytes: int


@dataclass
class Held:
    """What the clients of a round hold of the model.

    `mean`: coordinates that a client holds, averaged over the clients; `buffers`: numbers in the published buffers;
    `sizes`: where clients differ; `models`: what each client trains; none of them: all train the whole one; `layers`:
    counts where they are wanted.
    """

    mean: float = 0.0
    buffers: int = 0
    sizes: dict[int, SubmodelSize] = field(default_factory=dict)
    new_mask: NewMask = field(default_factory=NewMask)
    models: list[nn.Module] = field(default_factory=list)
    layers: LayerCounts | None = None

    def add(self, update: Sparse, submodel: Submodel, whole: nn.Module) -> None:
        """Count the decoded update of the next client, which holds `submodel` of the `whole` model; on rank 0."""
        self.models.append(submodel.model(whole))
        if self.layers is not None:
            self.layers.add(update, submodel)


@dataclass
class Peers:
    """Exchanges between clients without a server: how many, and the bytes that each client received from the others."""

    exchanges: int
    received_bytes: dict[int, int]


@dataclass
class RoundResult:
    """A finished round. `reports` are the same on every rank, the rest is whole on rank 0.

    `published`: bytes of each section that the server sent. `columns`: further columns of clients.csv, for each report;
    `charges` likewise, where clients come and go in their own time. `now`: when the server stepped, in virtual
    seconds, where the rounds know. `rejected`: clients whose updates do not count and that
    are still to be charged; those of rounds in virtual time are among the `dropped`. `exchange_s`: seconds from when all
    messages were made until the last rank had the new model, where clients trained meanwhile; None: all that is not
    training.
    """

    reports: list[ClientReport]
    held: Held = field(default_factory=Held)
    published: dict[str, int] = field(default_factory=dict)
    update_norm: float = 0.0
    columns: list[dict[str, float]] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    now: float | None = None
    peers: Peers | None = None
    exchange_s: float | None = None


def gather_reports(
    ranks: Ranks, report: ClientReport, received_bytes: int
) -> tuple[list[ClientReport], dict[int, int]]:
    """The report of every rank's client, and the bytes that each received from the others. Collective."""
    rows = ranks.gather(torch.tensor([*report.row(), received_bytes], dtype=torch.float64)).tolist()
    reports = [ClientReport.of_row(client, row[:-1]) for client, row in enumerate(rows)]
    return reports, {client: int(row[-1]) for client, row in enumerate(rows)}
