"""What a round cost, in bytes, operations and virtual seconds: the columns of metrics.csv and clients.csv, on rank 0."""

from collections.abc import Sequence
from typing import Any

from .clock.rounds import RoundClock, Work
from .cost import samples_trained
from .federation import Federation
from .ledger import ClientBytes, Ledger
from .outcome import RoundOutcome, Wasted


class Accounts:
    """The ledger, the declared costs of training, and the virtual clock of a run."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.config = federation.config
        state = federation.state
        self.ledger = Ledger(parameters=state.parameters.numel(), buffers=state.buffers.numel())
        self.costs = federation.make_costs()
        self.clock = RoundClock.of(self.config, federation.sampler.wait_s)

    def book(
        self, round_: int, outcome: RoundOutcome, *, query_bytes: tuple[int, int] = (0, 0), is_last: bool = False
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Charge a round that succeeded: its columns of metrics.csv, and the rows of clients.csv."""
        charged = self._charge(outcome, query_bytes, is_last=is_last)
        flops = self._train_flops(outcome)
        uplink = sum(row.uplink_bytes for row in charged)
        uplink_dense = sum(row.uplink_dense_bytes for row in charged)
        metrics: dict[str, Any] = {
            **self._totals(outcome),
            "train_flops": None if None in flops else sum(each for each in flops if each is not None),
            "uplink_bytes": uplink,
            "downlink_bytes": sum(row.downlink_bytes for row in charged),
            "uplink_dense_bytes": uplink_dense,
            "downlink_dense_bytes": sum(row.downlink_dense_bytes for row in charged),
            "virtual_time_s": outcome.virtual_time_s,
        }
        clients: list[dict[str, Any]] = [
            {
                "round": round_,
                "client": row.client,
                "rank": self.federation.ranks.owner(row.client),
                "samples": report.samples,
                "train_s": report.train_s,
                "train_flops": each,
                "uplink_bytes": row.uplink_bytes,
                "downlink_bytes": row.downlink_bytes,
            }
            for row, report, each in zip(charged, outcome.reports, flops, strict=True)
        ]
        times = outcome.times
        if self.clock is not None:
            works = [
                Work(row.client, row.begin_bytes, report.uplink_bytes, work)
                for row, report, work in zip(charged, outcome.reports, self._timed_flops(outcome), strict=True)
            ]
            times = [{**columns, "staleness": 0} for columns in self.clock.round(works)]
            metrics["virtual_time_s"] = self.clock.now
        for cells, columns in zip(clients, times or [], strict=times is not None):
            cells.update(columns)
        for cells, share in zip(clients, outcome.shares, strict=bool(outcome.shares)):
            cells.update(share)
        for late in outcome.wasted:
            clients.append(self._late(round_, late))
            metrics["uplink_bytes"] += late.upload_bytes
            metrics["downlink_bytes"] += late.download_bytes
            metrics["uplink_dense_bytes"] += self.ledger.model_bytes * (late.upload_bytes > 0)
            metrics["downlink_dense_bytes"] += self.ledger.model_bytes * (late.download_bytes > 0)
        sent = metrics["uplink_bytes"]
        metrics["uplink_ratio"] = metrics["uplink_dense_bytes"] / sent if sent else None
        return metrics, clients

    def _late(self, round_: int, late: Wasted) -> dict[str, Any]:
        """The row of a client whose update was dropped: it has no samples, and never arrived."""
        return {
            "round": round_,
            "client": late.client,
            "rank": self.federation.ranks.owner(late.client),
            "samples": 0,
            "uplink_bytes": late.upload_bytes,
            "downlink_bytes": late.download_bytes,
        }

    def _charge(self, outcome: RoundOutcome, query_bytes: tuple[int, int], *, is_last: bool) -> list[ClientBytes]:
        if outcome.begin_bytes is not None:
            last = outcome.change_bytes + outcome.buffers_bytes if is_last else 0
            whole = self.ledger.model_bytes
            return [
                ClientBytes(
                    client=report.client,
                    uplink_bytes=report.uplink_bytes + query_bytes[0],
                    downlink_bytes=begin + last + query_bytes[1],
                    uplink_dense_bytes=whole,
                    downlink_dense_bytes=whole * ((begin > 0) + (last > 0)),
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
            query_bytes=query_bytes,
            is_last=is_last,
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
        """What each client's training takes time for; with --cost-model sparse only the weights that it holds."""
        flops = self.costs.each(self._models(outcome), self._trained(outcome))
        if self.config.cost_model == "dense" or not outcome.held_by_layer:
            return flops
        n = self.federation.state.layout.total
        held = [sum(layers) / n for layers in outcome.held_by_layer]
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
