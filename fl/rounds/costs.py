"""What a round cost, in bytes, operations and virtual seconds: the columns of metrics.csv and clients.csv, on rank 0."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fl.clock.clock import RoundClock, Work
from fl.clock.profiles import parse_profiles, profiles
from fl.comm.ledger import ClientBytes, Ledger
from fl.comm.message import ClientReport
from fl.common.config import Config
from fl.training.cost import samples_trained
from fl.training.worker import Federation

from .modes import is_buffered, takes_time
from .result import RoundOutcome, Wasted


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
    unfinished: Sequence[Wasted] = ()


class Accounts:
    """The ledger, the declared costs of training, and the virtual clock of a run."""

    def __init__(
        self, federation: Federation, wait_s: Callable[[int, float], float], ledger: Ledger | None = None
    ) -> None:
        """`ledger`: the one that charges downloads as they begin; by default rounds are charged when they are over."""
        self.federation = federation
        self.config = federation.config
        state = federation.state
        self.ledger = ledger or Ledger(parameters=state.parameters.numel(), buffers=state.buffers.numel())
        self.costs = federation.make_costs()
        self.clock = _clock(self.config, wait_s)

    def book(self, round_: int, outcome: RoundOutcome, ending: Ending | None = None) -> tuple[Entry, Entry]:
        """Charge a round that succeeded. With `ending`, as the last one, and as it is where more rounds follow after all."""
        charged, flops = self._charge(outcome), self._train_flops(outcome)
        times = outcome.times
        if self.clock is not None:
            works = [
                Work(row.client, row.begin_bytes, report.uplink_bytes, work)
                for row, report, work in zip(charged, outcome.reports, self._timed_flops(outcome), strict=True)
            ]
            times = [{**columns, "staleness": 0} for columns in self.clock.round(works)]
        common = {
            **self._totals(outcome),
            "train_flops": None if None in flops else sum(each for each in flops if each is not None),
            "virtual_time_s": outcome.virtual_time_s if self.clock is None else self.clock.now,
        }
        rows = [
            {
                "round": round_,
                "client": report.client,
                "rank": self.federation.ranks.owner(report.client),
                "samples": report.samples,
                "train_s": report.train_s,
                "train_flops": each,
                **(times[at] if times is not None else {}),
                **(outcome.shares[at] if outcome.shares else {}),
            }
            for at, (report, each) in enumerate(zip(outcome.reports, flops, strict=True))
        ]
        going_on = self._entry(round_, common, rows, charged, outcome.wasted)
        if ending is None:
            return going_on, going_on
        ended = self._ended(charged, outcome.reports, ending)
        return self._entry(round_, common, rows, ended, [*outcome.wasted, *ending.unfinished]), going_on

    def _ended(
        self, charged: Sequence[ClientBytes], reports: Sequence[ClientReport], ending: Ending
    ) -> list[ClientBytes]:
        """With what ends the run, once for every client: at its newest update."""
        newest = {report.client: at for at, report in enumerate(reports)}
        return [
            row + self.ledger.closing(row.client, ending.query_bytes) if newest[row.client] == at else row
            for at, row in enumerate(charged)
        ]

    def _entry(
        self,
        round_: int,
        common: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        charged: Sequence[ClientBytes],
        wasted: Sequence[Wasted],
    ) -> Entry:
        """The columns `common` to a round, and the beginnings of its `rows`, with what was charged."""
        clients = [
            {**row, "uplink_bytes": each.uplink_bytes, "downlink_bytes": each.downlink_bytes}
            for row, each in zip(rows, charged, strict=True)
        ]
        clients += [self._late(round_, each) for each in wasted]
        metrics = dict(common)
        for name in ("uplink_bytes", "downlink_bytes"):
            metrics[name] = sum(row[name] for row in clients)
        whole = self.ledger.model_bytes
        metrics["uplink_dense_bytes"] = sum(each.uplink_dense_bytes for each in charged)
        metrics["uplink_dense_bytes"] += whole * sum(each.upload_bytes > 0 for each in wasted)
        metrics["downlink_dense_bytes"] = sum(each.downlink_dense_bytes for each in charged)
        metrics["downlink_dense_bytes"] += whole * sum(each.download_bytes > 0 for each in wasted)
        sent = metrics["uplink_bytes"]
        metrics["uplink_ratio"] = metrics["uplink_dense_bytes"] / sent if sent else None
        return Entry(metrics, clients)

    def _late(self, round_: int, late: Wasted) -> dict[str, Any]:
        """The row of a client whose update was dropped, or is still to come: it has no samples, and never arrived."""
        return {
            "round": round_,
            "client": late.client,
            "rank": self.federation.ranks.owner(late.client),
            "samples": 0,
            "uplink_bytes": late.upload_bytes,
            "downlink_bytes": late.download_bytes,
        }

    def _charge(self, outcome: RoundOutcome) -> list[ClientBytes]:
        if outcome.begin_bytes is not None:
            whole = self.ledger.model_bytes
            return [
                ClientBytes(
                    client=report.client,
                    uplink_bytes=report.uplink_bytes,
                    downlink_bytes=begin,
                    uplink_dense_bytes=whole,
                    downlink_dense_bytes=whole * (begin > 0),
                    begin_bytes=begin,
                )
                for report, begin in zip(outcome.reports, outcome.begin_bytes, strict=True)
            ]
        return self.ledger.close_round(
            {report.client: report.uplink_bytes for report in outcome.reports},
            change_bytes=outcome.change_bytes,
            buffers_bytes=outcome.buffers_bytes,
            from_peers=outcome.received_bytes,
            exchanges=outcome.exchanges,
            mask_bytes=outcome.mask_bytes,
            held=outcome.held if outcome.holdings is None else None,
            holdings=outcome.holdings,
            held_buffers=outcome.held_buffers,
            told_bytes=outcome.told_bytes,
            rewound_bytes=outcome.rewound_bytes,
            told_by=outcome.told_by,
        )

    def _totals(self, outcome: RoundOutcome) -> dict[str, Any]:
        reports, n = outcome.reports, self.federation.state.layout.total
        samples = sum(report.samples for report in reports)
        return {
            "train_loss": sum(report.train_loss * report.samples for report in reports) / samples,
            "clients": len(reports),
            "samples": samples,
            "kept_fraction": sum(report.kept for report in reports) / max(1, n * len(reports)),
            "update_norm": outcome.update_norm,
            "sparsity": 0.0 if outcome.held is None else 1 - outcome.held / n,
            "mask_bytes": outcome.mask_bytes,
            "client_memory_bytes": outcome.memory_bytes or self.costs.memory_bytes(self._models(outcome)),
        }

    def _models(self, outcome: RoundOutcome) -> list[Any]:
        whole = self.federation.engine.model
        return [model or whole for model in outcome.models] or [whole] * len(outcome.reports)

    def _trained(self, outcome: RoundOutcome) -> list[int]:
        return samples_trained(self.config, [report.samples for report in outcome.reports])

    def _train_flops(self, outcome: RoundOutcome) -> Sequence[int | None]:
        """Operations of each client's training; None where they are not known."""
        if outcome.flops is not None:
            return outcome.flops
        return self.costs.flops(self._models(outcome), self._trained(outcome))

    def _timed_flops(self, outcome: RoundOutcome) -> list[float]:
        """What each client's training takes time for; with --profiles ...,sparse only the weights that it holds."""
        flops = self.costs.each(self._models(outcome), self._trained(outcome))
        if not parse_profiles(self.config.profiles).sparse or outcome.layers is None:
            return flops
        n = self.federation.state.layout.total
        held = [sum(layers) / n for layers in outcome.layers.held]
        smaller = [model is not None for model in outcome.models]
        return [each if small else each * part for each, part, small in zip(flops, held, smaller, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {"ledger": self.ledger.state_dict(), "clock": self.clock.state_dict() if self.clock else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.ledger.load_state_dict(state["ledger"])
        if self.clock is not None:
            self.clock.load_state_dict(state["clock"])


def _clock(config: Config, wait_s: Callable[[int, float], float]) -> RoundClock | None:
    """The clock of synchronous rounds; None where nothing takes time, or the rounds keep it."""
    if is_buffered(config) or not takes_time(config):
        return None
    assert config.clients is not None
    known = profiles(config.profiles, config.clients, config.seed)
    limits = {"up_limit": config.server_up_limit or None, "down_limit": config.server_down_limit or None}
    return RoundClock(known, config.seed, wait_s=wait_s, **limits)
