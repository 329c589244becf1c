"""A whole run: from options to a run folder with results."""

import contextlib
import dataclasses
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from compression.phases import phase
from fl.comm.message import share_model
from fl.common.config import Config, code_options
from fl.common.errors import ConfigError, DataError
from fl.common.files import Beginning, write_json
from fl.common.generators import kept_generators
from fl.common.mode import mode_of
from fl.common.paths import expand_paths
from fl.common.progress import work
from fl.common.ranks import Ranks, in_groups, join_ranks
from fl.common.stopping import Stopped, stopping
from fl.common.surroundings import on_cpu_by_default, replaying, usual_surroundings
from fl.common.tensor_files import save_tensors
from fl.common.terminal import lasting_output, try_to_write
from fl.output.checkpoint import Checkpoints, Manifest, saved_rounds
from fl.output.predictions import write_predictions
from fl.output.summary import write_summary
from fl.rounds.base import Rounds
from fl.rounds.costs import Costs
from fl.rounds.ddp import DdpRounds
from fl.rounds.hook import HookRounds
from fl.rounds.result import RoundResult
from fl.rounds.sampling import make_sampler
from fl.rounds.sync import SyncRounds
from fl.rounds.timed import TimedRounds
from fl.training.engine.deepspeed_config import reconcile
from fl.training.evaluate import Evaluation, Evaluations
from fl.training.worker import Worker

from .books import Books, Page
from .build import AskSites, assemble
from .checks import check_given, check_options, resolve
from .folder import (
    continue_options,
    create_folder,
    files_sha256,
    keep_first_weights,
    lasting_options,
    locked,
    refuse_other_files,
    refuse_other_model,
    refuse_other_options,
    refuse_other_samples,
    samples_sha256,
    with_first_weights,
)
from .profile import Profile
from .room import check_room


def make_rounds(worker: Worker) -> Rounds:
    """The rounds of the mode that the options ask for."""
    config = worker.config
    sampler = make_sampler(config, worker.sizes)
    mode = mode_of(config)
    if not mode.has_server:
        return DdpRounds(worker)
    if not mode.sees_each_update:
        return HookRounds(worker, sampler)
    return SyncRounds(worker, sampler) if mode.waits_for_all else TimedRounds(worker, sampler)


@lasting_output()
def run(
    config: Config,
    *,
    explicit: frozenset[str] = frozenset(),
    make_rounds: Callable[[Worker], Rounds] = make_rounds,
    ask_sites: AskSites | None = None,
) -> dict[str, Any]:
    """Run to the end and return the contents of summary.json (on rank 0; an empty dict on the others).

    `explicit`: names of the options that the user gave. `make_rounds`: makes the rounds, by default those of the mode that
    the options ask for. `ask_sites`: asks what `--partition sites` needs to know. Raises ConfigError, DataError or
    RoundError, each with one sentence for the user, and Stopped if a signal that `stopping` heard on any rank asked for it.
    A program that calls this keeps its own random streams and torch's settings.
    """
    with usual_surroundings(), kept_generators():
        return _run(config, explicit, make_rounds, ask_sites)


def _run(
    config: Config,
    explicit: frozenset[str],
    make_rounds: Callable[[Worker], Rounds],
    ask_sites: AskSites | None,
) -> dict[str, Any]:
    given, config = config, expand_paths(config)
    check_given(config, explicit)
    config, folder = continue_options(config, explicit)
    if folder is not None:
        refuse_other_files(config, folder)
    init = config.init
    config = reconcile(with_first_weights(config, folder), explicit)
    check_options(config, explicit)
    with (
        on_cpu_by_default(),
        join_ranks(config, given) as ranks,
        replaying(ranks.device),
        contextlib.ExitStack() as held,
    ):
        held.enter_context(locked(folder, ranks))
        config = resolve(config, world_size=ranks.world_size, threads=ranks.threads, explicit=explicit)
        ranks = held.enter_context(in_groups(ranks, config.ranks_per_client, config.server_shards))
        worker = assemble(config, ranks, ask_sites)
        worker.config = dataclasses.replace(worker.config, init=init)
        digest = samples_sha256(worker)
        if folder is not None:
            refuse_other_samples(worker, folder, digest)
        rounds = make_rounds(worker)
        costs = Costs(worker, rounds.wait_s, rounds.ledger)
        resumed = folder is not None
        begins = -1 if folder is None else max(saved_rounds(folder), default=-1)
        if not ranks.all_agree(begins):
            raise ConfigError(f"--resume {config.resume}: ranks see different checkpoints; all must share --output-dir")
        place = Path(config.output_dir) if folder is None else folder
        note = ranks.share_json(lambda: check_room(worker, rounds, place))
        if folder is None:
            folder, name = create_folder(config, ranks)
            worker.config = dataclasses.replace(worker.config, run_name=name)
            held.enter_context(locked(folder, ranks, is_new=True))
        one = _Run(worker, rounds, costs, folder, digest, note, resumed=resumed)
        summary = one.go()
    if one.stopped is not None:
        raise one.stopped
    return summary


class _Run:
    """The loop over rounds with its books, costs and checkpoints."""

    def __init__(
        self,
        worker: Worker,
        rounds: Rounds,
        costs: Costs,
        folder: Path,
        samples_sha256: str,
        note: str,
        *,
        resumed: bool,
    ) -> None:
        """`note`: a sentence for the log and the terminal; may be empty."""
        self.worker = worker
        self.config = worker.config
        self.ranks: Ranks = worker.ranks
        self.folder = folder
        self.rounds = rounds
        self.costs = costs
        self.checkpoints = Checkpoints(folder, self.ranks, rounds.states)
        self.tested: Evaluation | None = None  # the test split, after the last round
        self.stopped: Stopped | None = None
        self._can_go_on = self.config.hook is None
        rounds.states.open(self.checkpoints.folder)
        manifest, warning = self._load() if resumed else (None, "")
        self._resumes = ["--resume", str(folder), *(word for one in code_options(self.config).items() for word in one)]
        stopping.note_saved(*(self._resumes if resumed else ()))
        self.checkpoints.on_complete = self._note_saved
        self.first_round = 0 if manifest is None else manifest.next_round
        share_model(self.ranks, worker.state)
        rounds_to_run = range(self.first_round, self.config.all_rounds)
        self.profile = Profile(self.ranks, folder, rounds_to_run, on=self.config.profile)
        self.books: Books | None = None

        def open_books() -> None:
            if manifest is None:
                keep_first_weights(self.config, folder)
                self._write_partition(samples_sha256)
            self.books = Books(worker, rounds, self.costs, folder, manifest)
            if note:
                self.books.tell(note)
            if manifest is not None and warning:
                self.books.warn(warning)
                self.checkpoints.drop_newer(manifest)
            write_json(folder / "config.json", dataclasses.asdict(dataclasses.replace(self.config, resume=None)))

        self.ranks.share_json(open_books)

    def _write_partition(self, samples_sha256: str) -> None:
        parts: dict[str, Any] = {
            "samples_sha256": samples_sha256,
            "files_sha256": files_sha256(self.config),
            "labels": self.worker.label_counts(),
            **self.rounds.beginning(),
        }
        write_json(self.folder / "partition.json", parts)

    def go(self) -> dict[str, Any]:
        """All remaining rounds, then the summary, the final model and the figures; an empty dict if a signal ended it."""
        try:
            with stopping.after_the_round():
                try:
                    self._run_rounds()
                    self.checkpoints.finish()
                except RuntimeError as error:
                    explained = self.ranks.explained(error)
                    if explained is not error:
                        self.checkpoints.give_up()
                    raise explained from error.__cause__
            return self._finish() if self.stopped is None else {}
        except Exception as error:
            if self.books is not None:
                self.books.log.error("%s: %s", type(error).__name__, error)
            raise
        finally:
            self.checkpoints.close()
            if self.books is not None:
                self.books.close()

    def _run_rounds(self) -> None:
        quiet = self.config.quiet or not self.ranks.is_server
        with (
            self.profile.rounds(),
            tqdm(
                total=self.config.all_rounds,
                initial=self.first_round,
                unit="round",
                disable=quiet,
                desc=self.folder.name,
            ) as bar,
        ):
            for number in range(self.first_round, self.config.all_rounds):
                with self.profile.round(number):
                    metrics = self._round(number)
                work.is_first_round = False
                if metrics:
                    shown = {"loss": metrics["train_loss"], "val": metrics[self.worker.task.score.columns[0]]}
                    bar.set_postfix({key: f"{value:.4f}" for key, value in shown.items() if value is not None})
                bar.update()
                if self.stopped is not None:
                    break

    def _round(self, number: int) -> dict[str, Any]:
        started = time.perf_counter()
        self.profile.begin(started)
        is_last, is_due = number == self.config.all_rounds - 1, _is_due(number, self.config.eval_every)
        result = self.rounds.run(number)  # who trains, what is sent, the server's step
        exchanged = time.perf_counter()
        judged = self._judge(number, result) if is_last or is_due else Evaluations()
        seconds = {"exchange_s": exchanged - started, "eval_s": time.perf_counter() - exchanged}
        page = Page()
        if self.books is not None:  # bytes, operations, virtual seconds
            page = self.books.page(number, result, judged, seconds, is_last=is_last)
        self._tell_times(number, page)
        # The evaluation that ends a run decides nothing: a longer run would not have made it.
        self.rounds.end(number, judged.score(self.worker.task) if is_due else None)
        every = self.config.checkpoint_every
        saves = every > 0 and (is_last or _is_due(number, every))
        status = self.ranks.largest(stopping.status)  # all ranks stop after the same round
        self.profile.hand_in()
        self._add(number, page, started, saves=saves or (status > 0 and self._can_go_on))
        if status:
            self.checkpoints.finish()
            self.stopped = self._stop(status, number + 1)
        self.tested = judged.test
        return page.metrics

    @phase("evaluation")
    def _judge(self, number: int, result: RoundResult) -> Evaluations:
        self.rounds.before_evaluation(number, sorted({report.client for report in result.reports}))
        return self.worker.judge()

    def _tell_times(self, number: int, page: Page) -> None:
        """Rank 0 knows when a round ended in virtual time, and who took how long; what follows is the same on every rank."""
        if not self.rounds.by_time:
            return

        def tell() -> tuple[float, list[dict[str, Any]]]:
            return page.metrics["virtual_time_s"], [row for row in page.clients if row.get("arrive_s") is not None]

        now, rows = self.ranks.share_json(tell)
        for line in self.rounds.timed(number, now, rows):
            if self.books is not None:
                self.books.tell(line)

    def _add(self, number: int, page: Page, started: float, *, saves: bool) -> None:
        """Write the round down, and begin a checkpoint if it is due."""
        books = self.books

        def add(waited_s: float = 0.0) -> tuple[dict[str, Beginning], dict[str, Any]]:
            assert books is not None  # this is rank 0
            now = time.perf_counter()
            page.phases = self.profile.rows(number, now)
            return books.add(page, now - started, waited_s)

        if saves:
            with phase("checkpoint"):
                self.rounds.put_states()
                state = {}
                if books is not None:
                    state = {"rounds": self.rounds.state_dict(), "costs": self.costs.state_dict()}
                    state["options"] = lasting_options(self.config)
                self.checkpoints.save(number + 1, state=state, record=add)
        elif books is not None:
            add()
        if books is not None:
            books.trackers.log(page.metrics)

    def _note_saved(self) -> None:
        """A checkpoint is complete."""
        if self._can_go_on:
            stopping.note_saved(*self._resumes)

    def _stop(self, status: int, finished: int) -> Stopped:
        """Rank 0 says after how many rounds, and how to go on."""
        if self.books is None:
            return Stopped(status, "")
        sentence = f"stopped by a signal after {finished} of {self.config.all_rounds} rounds; {stopping.remedy}"
        self.books.log.warning("%s", sentence)
        return Stopped(status, sentence)

    def _load(self) -> tuple[Manifest, str]:
        """Continue from the newest checkpoint that is whole; what it consists of, and what is wrong with newer ones."""
        manifest, warning = self.checkpoints.latest()
        try:
            state = self.checkpoints.load(manifest)
            refuse_other_options(self.config, self.folder, state["options"])
            refuse_other_model(self.worker, state["rounds"]["model"])
            self.rounds.load_state_dict(state["rounds"])
            self.costs.load_state_dict(state["costs"])
        except (ConfigError, DataError):
            raise
        except (
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:  # digests do not tell malice
            told = f"{type(error).__name__}: {error}"
            raise DataError(f"the checkpoints in {self.folder} do not hold the state of this run ({told})") from None
        return manifest, warning

    def _finish(self) -> dict[str, Any]:
        self.rounds.states.close()
        summary = self._write_results()
        if self.tested is None:  # the run goes on after its last round
            self.tested = self.worker.evaluate(self.worker.test)
        if self.books is None:
            return {}
        # Nothing is lost from here on: the model, the last checkpoint and the summary are on disk.
        self.books.trackers.summarise(summary)
        tested, task = self.tested, self.worker.task
        resumable = self.config.checkpoint_every > 0 and self.config.hook is None
        again = f"--resume {self.folder} writes" if resumable else f"leanfed report {self.folder} draws"
        remedy = f"the model and summary.json are whole, and {again} what is missing"
        if tested is not None:
            try_to_write(
                "what the model says of the test samples",
                lambda: write_predictions(self.folder, task, self.worker.test, tested),
                remedy,
            )
        from fl.output.report import try_report

        try_report(self.folder, remedy, figures=self.config.figures)
        self.books.log.info("ends: test %s %s", task.score.title, summary[f"final_test_{task.score.name}"])
        return summary

    def _write_results(self) -> dict[str, Any]:
        """The final model, then the summary."""
        if self.books is None:
            return {}
        state = self.worker.state
        save_tensors(self.folder / "final_model.safetensors", state.state_dict())
        extra = {
            "bytes_counted": "payloads" if mode_of(self.config).sees_each_update else "at the collective calls",
            "folder": str(self.folder),
            "world_size": self.ranks.world_size,
            "launcher": self.ranks.launcher,
            "device": _device_name(self.ranks.device),
            "torch": torch.__version__,
            "left_out": self.rounds.left_out,
            **self.rounds.privacy,
        }
        return write_summary(self.folder, model_sha256=state.sha256(), parameters=state.layout.total, extra=extra)


def _is_due(number: int, every: int) -> bool:
    return (number + 1) % every == 0


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
