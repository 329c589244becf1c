"""A run's books on rank 0: tables, log, checkpoint's share of them, and what trackers and the terminal are told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fl.common.files import Beginning, sha256
from fl.common.terminal import say
from fl.output.checkpoint import Manifest
from fl.output.record import Record
from fl.output.trackers import Trackers
from fl.rounds.base import Rounds
from fl.rounds.costs import Costs, Ending
from fl.rounds.rejections import IN_A_ROW
from fl.rounds.result import RoundResult
from fl.training.evaluate import Evaluations
from fl.training.worker import Worker


@dataclass
class Page:
    """A finished round as it goes into the tables: columns of metrics.csv, rows of clients.csv, and both as they are if
    more rounds follow a last one (`onward`). Empty on ranks other than 0."""

    metrics: dict[str, Any] = field(default_factory=dict)
    clients: list[dict[str, Any]] = field(default_factory=list)
    onward: tuple[dict[str, Any], list[dict[str, Any]]] = field(default_factory=lambda: ({}, []))
    layers: list[dict[str, Any]] | None = None
    scores: list[dict[str, Any]] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)


class Books:
    """Opened at the beginning of a run, on rank 0; `page` for each round, `add` when all else of it is done."""

    def __init__(self, worker: Worker, rounds: Rounds, costs: Costs, folder: Path, manifest: Manifest | None) -> None:
        """`manifest`: of the checkpoint that the run goes on from. DataError if the record is not what it was then."""
        config = worker.config
        self._worker = worker
        self._rounds = rounds
        self._costs = costs
        self._quiet = config.quiet
        self._left_out = rounds.left_out  # said before
        self.record = Record(
            folder,
            worker.task,
            None if manifest is None else manifest.record,
            layers=config.prune != "none",
            client_eval=config.client_eval > 0,
            private=config.dp != "none",
            profile=config.profile,
            engine=rounds.engine_bytes is not None,
        )
        partition = (folder / "partition.json").read_bytes()
        self._partition = Beginning(len(partition), sha256(partition))
        self.log = self.record.log
        first = 0 if manifest is None else manifest.next_round
        told_anew = None  # the row of the round that ended the run before more rounds were asked for
        if manifest is not None and manifest.last_round:
            ends = first == config.all_rounds
            rows = manifest.last_round["ended" if ends else "going_on"]
            self.record.restore_last_round(rows)
            told_anew = None if ends else rows[0]
        ranks = worker.ranks
        where = f"{ranks.world_size} rank(s), {ranks.device.type}, {ranks.launcher}, engine {config.engine}"
        self.log.info("%s round %d on %s", "starts at" if manifest is None else "continues at", first, where)
        for note in worker.notes:
            self.log.info("data: %s", note)
        for sentence in worker.left_out:
            self.warn(f"data: {sentence}")
        self.trackers = Trackers(config, folder, first - (told_anew is not None))
        if told_anew is not None:
            self.trackers.log(told_anew)

    def page(
        self, number: int, result: RoundResult, judged: Evaluations, seconds: dict[str, float], *, is_last: bool
    ) -> Page:
        """Charge a round, and log its new mask and its stuck clients. `seconds`: exchange_s with training, and eval_s."""
        new_mask = result.held.new_mask
        if new_mask.mask_bytes:
            self.log.info(
                "round %d begins with a mask of %d coordinates, %d bytes: outside it weights are zero, and moments and "
                "residuals are forgotten",
                *(number, result.held.mean, new_mask.mask_bytes),
            )
        self._tell_stuck(number, result)
        self._tell_halved(number, result)
        ending = Ending(self._rounds.query_bytes, self._rounds.unfinished()) if is_last else None
        entry, going_on = self._costs.charge(number, result, ending)
        train_s = self._busiest_rank_s(result)
        measured = {
            "round": number,
            "time_s": None,  # known when all else of the round is done
            "checkpoint_s": None,
            "train_s": train_s,
            "exchange_s": max(0.0, seconds["exchange_s"] - train_s) if result.exchange_s is None else result.exchange_s,
            "eval_s": seconds["eval_s"],
            **judged.columns(self._worker.task),
            **self._rounds.privacy,
            **({} if self._rounds.engine_bytes is None else {"engine_bytes": self._rounds.engine_bytes}),
        }
        self._tell_rejected(number, entry.clients)
        page = Page(
            {**measured, **entry.metrics},
            entry.clients,
            ({**measured, **going_on.metrics}, going_on.clients),
            None if result.held.layers is None else result.held.layers.rows(number, self._worker.state),
            judged.rows(number),
        )
        if is_last:
            self.record.end_run((page.metrics, page.clients), page.onward)
        return page

    def add(self, page: Page, time_s: float, checkpoint_s: float) -> tuple[dict[str, Beginning], dict[str, Any]]:
        """Write a page; how far the record is a checkpoint's, and the last round, for the checkpoint.

        `time_s`: seconds of the round, of which it waited `checkpoint_s` for checkpoints.
        """
        times = {"time_s": time_s, "checkpoint_s": checkpoint_s}
        page.metrics.update(times)
        page.onward[0].update(times)
        self.record.add_round(page.metrics, page.clients, page.layers, page.scores, page.phases)
        return {**self.record.so_far(), "partition.json": self._partition}, self.record.last_round

    def tell(self, line: str) -> None:
        """A line for the log, and for the terminal unless it is to be quiet."""
        self.log.info(line)
        if not self._quiet:
            say(line)

    def warn(self, sentence: str) -> None:
        """A warning for the log, and always for the terminal."""
        self.log.warning("%s", sentence)
        say(sentence)

    def close(self) -> None:
        """Close all files."""
        self.trackers.close()
        self.record.close()

    def _tell_rejected(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Say which updates do not count, and who is not asked again."""
        for row in rows:
            if row.get("rejected"):
                self.warn(
                    f"round {number} goes on without client {row['client']} on rank {row['rank']}: {row['rejected']}"
                )
        for client in self._rounds.left_out:
            if client not in self._left_out:
                self.warn(f"client {client} has failed {IN_A_ROW} times in a row, and is not asked again")
        self._left_out = self._rounds.left_out

    def _tell_halved(self, number: int, result: RoundResult) -> None:
        """Say which clients' batches did not fit into memory."""
        halved = [str(report.client) for report in result.reports if report.halved]
        if halved:
            self.warn(
                f"round {number}: memory was too small for a batch of client {', '.join(halved)}: gradients were added up "
                "over its halves, and BatchNorm saw each by itself; a lower --batch-size avoids this"
            )

    def _tell_stuck(self, number: int, result: RoundResult) -> None:
        """Say which clients have not moved."""
        stuck = [str(report.client) for report in result.reports if not report.moved]
        if stuck:
            self.warn(
                f"round {number}: client {', '.join(stuck)} took no step, since no loss scale keeps the gradients finite in "
                "fp16: use --precision bf16 or fp32, or a lower --lr"
            )

    def _busiest_rank_s(self, result: RoundResult) -> float:
        ranks = self._worker.ranks
        busy = dict.fromkeys(range(ranks.world_size), 0.0)
        for report in result.reports:
            busy[ranks.owner(report.client)] += report.train_s
        return max(busy.values())
