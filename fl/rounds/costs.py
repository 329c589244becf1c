"""The cost of a round in bytes, operations and virtual seconds: columns of metrics.csv and clients.csv, on rank 0."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fl.clock.clock import RoundClock, VirtualClock, Work
from fl.clock.profiles import parse_profiles
from fl.comm.ledger import ClientBytes, Ledger
from fl.comm.message import ClientReport
from fl.common.config import Config
from fl.common.mode import mode_of
from fl.training.cost import samples_trained
from fl.training.worker import Worker

from .result import Dropped, RoundResult


@dataclass(frozen=True)
class Entry:
    """A round in the csv files: its columns of metrics.csv, and the rows of clients.csv."""

    metrics: dict[str, Any]
    clients: list[dict[str, Any]]


@dataclass(frozen=True)
class Ending:
    """What the end of a run adds to its last round.

    `query_bytes`: what each client of that round sends and receives besides. `unfinished`: clients that are still at work.
    """

    query_bytes: tuple[int, int] = (0, 0)
    unfinished: Sequence[Dropped] = ()


class Costs:
    """The ledger, the declared costs of training, and the virtual clock of a run."""

    def __init__(self, worker: Worker, wait_s: Callable[[int, float], float], ledger: Ledger | None = None) -> None:
        """`ledger`: the one that charges downloads as they begin; by default rounds are charged when they are over.
        ConfigError for a model whose training takes virtual time, and its operations cannot be counted."""
        self.worker = worker
        self.config = worker.config
        state = worker.state
        self.ledger = ledger or Ledger(parameters=state.parameters.numel(), buffers=state.buffers.numel())
        self.costs = worker.make_costs()
        self.clock = _clock(self.config, wait_s)
        if self.clock:
            self.costs.each([worker.engine.model], [1])

    def charge(self, number: int, result: RoundResult, ending: Ending | None = None) -> tuple[Entry, Entry]:
        """Charge a round that succeeded. Returns its entry, with `ending` as the last round, and the entry if more
        rounds follow."""
        charged, rejected = charge_bytes(self.ledger, result)
        flops = self._train_flops(result)
        dropped = [*result.dropped, *rejected]
        columns = result.columns or [{}] * len(result.reports)
        if self.clock:
            works = [
                Work(row.client, row.begin_bytes, report.uplink_bytes, work)
                for row, report, work in zip(charged, result.reports, self._timed_flops(result), strict=True)
            ]
            times = self.clock.round(works)
            columns = [{**each, "staleness": 0, **own} for each, own in zip(times, columns, strict=True)]
        common = {
            **self._totals(result),
            "train_flops": None if None in flops else sum(each for each in flops if each is not None),
            "virtual_time_s": self.clock.now if self.clock else result.now,
        }
        rows = [
            {
                "round": number,
                "client": report.client,
                "rank": self.worker.ranks.owner(report.client),
                "samples": report.samples,
                "train_s": report.train_s,
                "train_flops": each,
                **own,
            }
            for report, each, own in zip(result.reports, flops, columns, strict=True)
        ]
        going_on = self._entry(number, common, rows, charged, dropped)
        if ending is None:
            return going_on, going_on
        ended = self._ended(charged, result.reports, ending)
        return self._entry(number, common, rows, ended, [*dropped, *ending.unfinished]), going_on

    def _ended(
        self, charged: Sequence[ClientBytes], reports: Sequence[ClientReport], ending: Ending
    ) -> list[ClientBytes]:
        """The rows with the bytes that end the run, once for every client, in the row of its newest update."""
        newest = {report.client: at for at, report in enumerate(reports)}
        return [
            row + self.ledger.closing(row.client, ending.query_bytes) if newest[row.client] == at else row
            for at, row in enumerate(charged)
        ]

    def _entry(
        self,
        number: int,
        common: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        charged: Sequence[ClientBytes],
        dropped: Sequence[Dropped],
    ) -> Entry:
        """The columns `common` to a round, and the beginnings of its `rows`, with what was charged."""
        clients = [
            {**row, "uplink_bytes": each.uplink_bytes, "downlink_bytes": each.downlink_bytes}
            for row, each in zip(rows, charged, strict=True)
        ]
        # A client whose update was dropped or rejected, or is still to come, has no samples and never arrived.
        clients += [
            {
                "round": number,
                "client": each.client,
                "rank": self.worker.ranks.owner(each.client),
                "samples": 0,
                "uplink_bytes": each.upload_bytes,
                "downlink_bytes": each.download_bytes,
                "rejected": each.rejected or None,
            }
            for each in dropped
        ]
        metrics = {**common, "rejected": sum(bool(each.rejected) for each in dropped)}
        for name in ("uplink_bytes", "downlink_bytes"):
            metrics[name] = sum(row[name] for row in clients)
        whole = self.ledger.model_bytes
        metrics["uplink_dense_bytes"] = sum(each.uplink_dense_bytes for each in charged)
        metrics["uplink_dense_bytes"] += whole * sum(each.upload_bytes > 0 for each in dropped)
        metrics["downlink_dense_bytes"] = sum(each.downlink_dense_bytes for each in charged)
        metrics["downlink_dense_bytes"] += whole * sum(each.download_bytes > 0 for each in dropped)
        sent = metrics["uplink_bytes"]
        metrics["uplink_ratio"] = metrics["uplink_dense_bytes"] / sent if sent else None
        return Entry(metrics, clients)

    def _totals(self, result: RoundResult) -> dict[str, Any]:
        reports, n = result.reports, self.worker.state.layout.total
        samples = sum(report.samples for report in reports)
        memory = max((each.memory_bytes for each in result.charges), default=None)
        return {
            "train_loss": sum(report.train_loss * report.samples for report in reports) / samples if samples else None,
            "clients": len(reports),
            "samples": samples,
            "kept_fraction": sum(report.kept for report in reports) / max(1, n * len(reports)),
            "update_norm": result.update_norm,
            "sparsity": 1 - result.held.mean / max(1, n),
            "mask_bytes": result.held.new_mask.mask_bytes,
            "client_memory_bytes": memory or self.costs.memory_bytes(self._models(result)),
        }

    def _models(self, result: RoundResult) -> list[nn.Module]:
        return result.held.models or [self.worker.engine.model] * len(result.reports)

    def _trained(self, result: RoundResult) -> list[int]:
        return samples_trained(self.config, [report.samples for report in result.reports])

    def _train_flops(self, result: RoundResult) -> Sequence[int | None]:
        """Operations of each client's training; None where they are not known."""
        if result.charges:
            return [each.flops for each in result.charges]
        return self.costs.flops(self._models(result), self._trained(result))

    def _timed_flops(self, result: RoundResult) -> list[float]:
        """Operations that cost each client time; with --profiles ...,sparse those of the weights that it holds."""
        flops = self.costs.each(self._models(result), self._trained(result))
        if not parse_profiles(self.config.profiles).sparse or result.held.layers is None:
            return flops
        n = self.worker.state.layout.total
        held = [sum(layers) / n for layers in result.held.layers.held]
        smaller = [model is not self.worker.engine.model for model in self._models(result)]
        return [each if small else each * part for each, part, small in zip(flops, held, smaller, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: nested, tensors and what JSON can hold."""
        return {"ledger": self.ledger.state_dict(), "clock": self.clock.clock.state_dict() if self.clock else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.ledger.load_state_dict(state["ledger"])
        if self.clock:
            self.clock.clock.load_state_dict(state["clock"])


def charge_bytes(ledger: Ledger, result: RoundResult) -> tuple[list[ClientBytes], list[Dropped]]:
    """Bytes that each client sent and received, in the order of the reports, and those of rejected clients."""
    whole, held, reports = ledger.model_bytes, result.held, result.reports
    if result.charges:
        return [
            ClientBytes(report.client, report.uplink_bytes, begin, whole, whole * (begin > 0), begin)
            for report, begin in zip(reports, (each.download_bytes for each in result.charges), strict=True)
        ], []
    mask, before = held.new_mask, (0, 0)
    if mask.mask_bytes:
        before = ledger.new_mask(mask.mask_bytes, mask.rewound_bytes, mask.chooser)
    if not held.sizes:
        ledger.resize(int(held.mean), held.buffers)
    rows = []
    for report in reports:
        received, downloads = ledger.download(report.client, held.sizes.get(report.client))
        sent = report.uplink_bytes
        if report.client == mask.chooser:
            sent, received, downloads = sent + mask.mask_bytes, received + before[0], max(downloads, before[1])
        rows.append(ClientBytes(report.client, sent, received, whole, whole * downloads, received))
    rejected = []
    for each in result.rejected:
        received, _ = ledger.download(each.client, held.sizes.get(each.client))
        chose = each.client == mask.chooser
        sent, received = each.sent_bytes + chose * mask.mask_bytes, received + chose * before[0]
        rejected.append(Dropped(each.client, received, sent, each.reason))
    ledger.publish(result.published)
    peers = result.peers
    if peers is None:
        return rows, rejected
    return [ledger.between_peers(row, peers.exchanges, peers.received_bytes[row.client]) for row in rows], rejected


def _clock(config: Config, wait_s: Callable[[int, float], float]) -> RoundClock | None:
    """The clock of synchronous rounds; None where nothing takes time, or the rounds keep it."""
    mode = mode_of(config)
    if not mode.takes_time:
        return None
    return RoundClock(lambda upload_bytes: VirtualClock.of(config, upload_bytes), wait_s, overlap=config.overlap)
