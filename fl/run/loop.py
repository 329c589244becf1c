"""A whole run: from options to a run folder with results."""

import dataclasses
import errno
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fl.comm.message import share_model
from fl.common.config import Config
from fl.common.errors import ConfigError, RoundError
from fl.common.files import write_json, write_tensors
from fl.common.paths import expand_paths
from fl.common.ranks import Ranks, join_ranks
from fl.common.seeds import kept_generators
from fl.common.surroundings import on_cpu_by_default, replaying, usual_surroundings
from fl.common.terminal import lasting_output, say, try_to_write
from fl.output.checkpoint import Checkpoints, Manifest
from fl.output.client_states import ClientStates
from fl.output.predictions import write_predictions
from fl.output.record import Record, Rows
from fl.output.summary import write_summary
from fl.output.trackers import Trackers
from fl.rounds.base import Rounds
from fl.rounds.buffered import BufferedRounds
from fl.rounds.costs import Accounts, Ending
from fl.rounds.ddp import StepMode
from fl.rounds.deadline import DeadlineRounds
from fl.rounds.modes import is_buffered, takes_time
from fl.rounds.result import RoundOutcome
from fl.rounds.sampling import make_sampler
from fl.rounds.sync import FederatedRounds
from fl.training.engine.deepspeed_config import reconcile
from fl.training.evaluate import Evaluation, Judgement
from fl.training.worker import Federation

from .build import assemble
from .checks import check_options, resolve
from .folder import (
    continue_options,
    create_folder,
    files_sha256,
    keep_first_weights,
    refuse_other_files,
    refuse_other_model,
    refuse_other_samples,
    samples_sha256,
    with_first_weights,
)


@lasting_output()
def run(config: Config, *, explicit: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Run to the end and return the contents of summary.json (on rank 0; an empty dict on the others).

    `explicit`: names of the options that the user gave. Raises ConfigError, DataError or RoundError, each with one
    sentence for the user. A program that calls this keeps its own random streams and torch's settings.
    """
    with usual_surroundings(), kept_generators():
        return _run(config, explicit)


def _run(config: Config, explicit: frozenset[str]) -> dict[str, Any]:
    config = expand_paths(config)
    # A run that goes on has a copy of this file.
    check_options(config if config.resume is None else dataclasses.replace(config, init=None), explicit)
    config, folder = continue_options(config, explicit)
    if folder is not None:
        refuse_other_files(config, folder)
    init = config.init
    config = reconcile(with_first_weights(config, folder), explicit)
    check_options(config, explicit)
    with on_cpu_by_default(), join_ranks(config) as ranks, replaying(ranks.device):
        config = resolve(config, world_size=ranks.world_size, threads=ranks.threads, explicit=explicit)
        federation = assemble(config, ranks)
        federation.config = dataclasses.replace(federation.config, init=init)
        digest = samples_sha256(federation)
        if folder is not None:
            refuse_other_samples(federation, folder, digest)
        if takes_time(config):
            federation.make_costs().each([federation.engine.model], [1])  # refused now, or in the first round
        rounds = _rounds(federation)
        resumed = folder is not None
        begins = -1 if folder is None else Checkpoints(folder, ranks).next_round()
        if not ranks.all_agree(begins):
            raise ConfigError(f"--resume {config.resume}: ranks see different checkpoints; all must share --output-dir")
        if folder is None:
            folder, name = create_folder(config, ranks)
            federation.config = dataclasses.replace(federation.config, run_name=name)
        try:
            return _Run(federation, rounds, folder, digest, resumed=resumed).go()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            goes_on = Checkpoints(folder, ranks).next_round() >= 0
            remedy = f"--resume {folder} goes on after the last checkpoint" if goes_on else "begin the run again"
            raise RoundError(f"{folder} cannot be written to ({error.strerror}): make room, then {remedy}") from None


def _rounds(federation: Federation) -> Rounds:
    config = federation.config
    sampler = make_sampler(config, [len(part) for part in federation.parts])
    if config.mode == "step":
        return StepMode(federation)
    if not is_buffered(config):
        return FederatedRounds(federation, sampler)
    return DeadlineRounds(federation, sampler) if config.mode == "sync" else BufferedRounds(federation, sampler)


class _Run:
    """The loop over rounds with its record, ledger and checkpoints."""

    def __init__(
        self, federation: Federation, rounds: Rounds, folder: Path, samples_sha256: str, *, resumed: bool
    ) -> None:
        self.federation = federation
        self.config = federation.config
        self.ranks: Ranks = federation.ranks
        self.folder = folder
        self.accounts = Accounts(federation, rounds.wait_s, rounds.ledger)
        self.checkpoints = Checkpoints(folder, self.ranks)
        self.rounds = rounds
        self.states = ClientStates(self.checkpoints.folder, self.ranks, rounds)
        self.first_round = 0
        self.tested: Evaluation | None = None  # the test split, after the last round
        self.now = 0.0  # virtual seconds, where anything goes by them
        self._by_time = rounds.by_time
        manifest = self._load() if resumed else None
        share_model(self.ranks, federation.state)
        self.record: Record | None = None
        self.trackers: Trackers | None = None
        if self.ranks.is_server:
            write_json(folder / "config.json", dataclasses.asdict(dataclasses.replace(self.config, resume=None)))
            if not resumed:
                keep_first_weights(self.config, folder)
                able = self.rounds.capabilities
                parts = {
                    "samples_sha256": samples_sha256,
                    "files_sha256": files_sha256(self.config),
                    "labels": federation.label_counts(),
                }
                write_json(folder / "partition.json", parts if able is None else {**parts, "capabilities": able})
            self.record = Record(
                folder,
                federation.task,
                None if manifest is None else manifest.record,
                layers=self.config.prune != "none",
                client_eval=self.config.client_eval > 0,
            )
            told_anew = None  # the row of the round that ended the run before more rounds were asked for
            if manifest is not None and manifest.last_round:
                ends = self.first_round == self.config.all_rounds
                rows = manifest.last_round["ended" if ends else "going_on"]
                self.record.restore_last_round(rows)
                told_anew = None if ends else rows[0]
            self.record.log.info(
                "%s round %d on %s", "continues at" if resumed else "starts at", self.first_round, self
            )
            for note in federation.notes:
                self.record.log.info("data: %s", note)
            for sentence in federation.left_out:
                self.record.log.warning("data: %s", sentence)
                say(f"data: {sentence}")
            self.trackers = Trackers(self.config, folder, self.first_round - (told_anew is not None))
            if told_anew is not None:
                self.trackers.log(told_anew)

    def __str__(self) -> str:
        ranks = self.ranks
        return f"{ranks.world_size} rank(s), {ranks.device.type}, {ranks.launcher}, engine {self.config.engine}"

    def go(self) -> dict[str, Any]:
        """All remaining rounds, then the summary, the final model and the figures."""
        quiet = self.config.quiet or not self.ranks.is_server
        try:
            with tqdm(
                total=self.config.all_rounds,
                initial=self.first_round,
                unit="round",
                disable=quiet,
                desc=self.folder.name,
            ) as bar:
                for round_ in range(self.first_round, self.config.all_rounds):
                    metrics = self._round(round_)
                    if metrics:
                        shown = {"loss": metrics["train_loss"], "val": metrics[self.federation.task.score.columns[0]]}
                        bar.set_postfix({key: f"{value:.4f}" for key, value in shown.items() if value is not None})
                    bar.update()
            return self._finish()
        except Exception as error:
            if self.record is not None:
                self.record.log.error("%s: %s", type(error).__name__, error)
            raise
        finally:
            if self.trackers is not None:
                self.trackers.close()
            if self.record is not None:
                self.record.close()

    def _round(self, round_: int) -> dict[str, Any]:
        started = time.perf_counter()
        cohort = self.rounds.cohort(round_, self.now)
        outcome = self.rounds.run(round_, cohort)
        exchanged = time.perf_counter()
        is_last = round_ == self.config.all_rounds - 1
        is_due = (round_ + 1) % self.config.eval_every == 0
        judged = Judgement()
        if is_last or is_due:
            self.rounds.before_evaluation(round_, sorted({report.client for report in outcome.reports}))
            judged = self.federation.judge()
        finished = time.perf_counter()
        metrics: dict[str, Any] = {}
        clients: list[dict[str, Any]] = []
        onward: Rows = {}, []
        layers: list[dict[str, Any]] | None = None
        if self.record is not None:
            train_s = self._busiest_rank_s(outcome)
            ending = Ending(self.rounds.query_bytes, self.rounds.unfinished()) if is_last else None
            if outcome.mask_bytes:
                self.record.log.info(
                    "round %d begins with a mask of %d coordinates, %d bytes: outside it weights are zero, and moments and "
                    "residuals are forgotten",
                    *(round_, outcome.held or 0, outcome.mask_bytes),
                )
            entry, going_on = self.accounts.book(round_, outcome, ending)
            measured = {
                "round": round_,
                "time_s": None,  # known when all else of the round is done
                "train_s": train_s,
                "exchange_s": max(0.0, exchanged - started - train_s),
                "eval_s": finished - exchanged,
                **judged.columns(self.federation.task),
            }
            metrics, clients = {**measured, **entry.metrics}, entry.clients
            onward = ({**measured, **going_on.metrics}, going_on.clients)
            if is_last:
                self.record.end_run((metrics, clients), onward)
            layers = None if outcome.layers is None else outcome.layers.rows(round_, self.federation.state)
            self._tell_stuck(round_, outcome)
        self._tell_times(round_, metrics, clients)
        # The evaluation that ends a run decides nothing: a longer run would not have made it.
        self.rounds.evaluated(round_, judged.score(self.federation.task) if is_due else None)
        trained = cohort if outcome.trained is None else outcome.trained
        self.states.end_round(trained if self.rounds.has_client_state else ())
        every = self.config.checkpoint_every

        def add_round() -> tuple[dict[str, int], dict[str, Any]]:
            assert self.record is not None  # this is rank 0
            metrics["time_s"] = onward[0]["time_s"] = time.perf_counter() - started
            self.record.add_round(metrics, clients, layers, judged.rows(round_))
            return self.record.sizes(), self.record.last_round

        if every and (is_last or (round_ + 1) % every == 0):
            self._save(round_ + 1, add_round)
        elif self.record is not None:
            add_round()
        if self.trackers is not None:
            self.trackers.log(metrics)
        self.tested = judged.test
        return metrics

    def _tell_times(self, round_: int, metrics: dict[str, Any], clients: list[dict[str, Any]]) -> None:
        """Rank 0 knows when a round ended in virtual time, and who took how long; what follows is the same on every rank."""
        if not self._by_time:
            return

        def tell() -> Tensor:
            told = [metrics["virtual_time_s"], [row for row in clients if row.get("arrive_s") is not None]]
            return torch.frombuffer(bytearray(json.dumps(told).encode()), dtype=torch.uint8).to(self.ranks.device)

        self.now, rows = json.loads(self.ranks.share(tell).cpu().numpy().tobytes())
        for line in self.rounds.timed(round_, rows):
            if self.record is not None:
                self.record.log.info(line)
                if not self.config.quiet:
                    say(line)

    def _tell_stuck(self, round_: int, outcome: RoundOutcome) -> None:
        """Say which clients have not moved."""
        stuck = [str(report.client) for report in outcome.reports if not report.moved]
        if stuck and self.record is not None:
            line = (
                f"round {round_}: client {', '.join(stuck)} took no step, since no loss scale keeps the gradients finite in "
                "fp16: use --precision bf16 or fp32, or a lower --lr"
            )
            self.record.log.warning(line)
            say(line)

    def _busiest_rank_s(self, outcome: RoundOutcome) -> float:
        busy = dict.fromkeys(range(self.ranks.world_size), 0.0)
        for report in outcome.reports:
            busy[self.ranks.owner(report.client)] += report.train_s
        return max(busy.values())

    def _save(self, next_round: int, record: Callable[[], tuple[dict[str, int], dict[str, Any]]]) -> None:
        self.checkpoints.save(
            next_round,
            server=self.rounds.server_state() if self.ranks.is_server else {},
            client_files=self.states.save(next_round),
            record=record,
            accounts=self.accounts.state_dict(),
            plan=self.rounds.plan(),
        )

    def _load(self) -> Manifest:
        """Continue from the newest checkpoint, and return what it consists of."""
        manifest = self.checkpoints.latest()
        assert manifest is not None
        self.first_round = manifest.next_round
        self.rounds.load_plan(manifest.plan)
        state = self.checkpoints.load(manifest.server_file)
        refuse_other_model(self.federation, state)
        self.rounds.load_server_state(state)
        self.states.load(manifest.client_files)
        self.accounts.load_state_dict(manifest.accounts)
        self.now = 0.0 if self.accounts.clock is None else self.accounts.clock.now
        return manifest

    def _finish(self) -> dict[str, Any]:
        self.states.close()
        summary = self._write_results()
        if self.tested is None:  # the run goes on after its last round
            self.tested = self.federation.evaluate(self.federation.test)
        if self.record is None:
            return {}
        # Nothing is lost from here on: the model, the last checkpoint and the summary are on disk.
        if self.trackers is not None:
            self.trackers.summarise(summary)
        tested, task = self.tested, self.federation.task
        resumable = self.config.checkpoint_every > 0 and self.config.hook is None
        again = f"--resume {self.folder} writes" if resumable else "fl.output.report.write_report draws"
        remedy = f"the model and summary.json are whole, and {again} what is missing"
        if tested is not None:
            try_to_write(
                "what the model says of the test samples",
                lambda: write_predictions(self.folder, task, self.federation.test, tested),
                remedy,
            )
        from fl.output.report import try_report

        try_report(self.folder, remedy)
        self.record.log.info("ends: test %s %s", task.score.title, summary[f"final_test_{task.score.name}"])
        return summary

    def _write_results(self) -> dict[str, Any]:
        """The final model, then the summary."""
        if self.record is None:
            return {}
        state = self.federation.state
        write_tensors(self.folder / "final_model.safetensors", state.state_dict())
        hook = self.config.mode == "step" or self.config.exchange == "hook"
        extra = {
            "bytes_counted": "at the collective calls" if hook else "payloads",
            "folder": str(self.folder),
            "world_size": self.ranks.world_size,
            "launcher": self.ranks.launcher,
            "device": _device_name(self.ranks.device),
            "torch": torch.__version__,
        }
        return write_summary(self.folder, model_sha256=state.sha256(), parameters=state.layout.total, extra=extra)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
