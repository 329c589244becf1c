"""The rounds of a federated run: sample, train, upload, step."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from compression.wire import dense_bytes
from fl.clock.adaptive import Time
from fl.comm.ledger import Ledger
from fl.common.errors import RoundError
from fl.output.client_states import ClientStates
from fl.pruning.build import make_after, make_masks
from fl.training.gradients import CorrectedGradients
from fl.training.local_model import LocalModel, WholeModel
from fl.training.static_batchnorm import ask_statistics, norms
from fl.training.trainer import Update
from fl.training.worker import Federation

from .build import make_exchange
from .result import RoundOutcome, Wasted
from .sampling import Sampler

CAPABILITY, UPLINK_SHARE = "capability", "uplink_share"
"""Columns of clients.csv."""


class FederatedRounds:
    """Clients train apart, their updates go to rank 0, and its change comes back."""

    def __init__(self, federation: Federation, sampler: Sampler) -> None:
        self.federation = federation
        self.sampler = sampler
        self.trainer = federation.make_trainer()
        self.exchange = make_exchange(federation)
        self.course, self._gradients = federation.course, None
        if self.course.algorithm.corrects:
            # Before any mask of gradients: the correction is masked too.
            names = federation.state.layout.names
            self._gradients = CorrectedGradients(federation.engine.model, names, self.course.algorithm)
        self.masks = make_masks(federation, self.trainer)
        self.exchange.masks = self.masks
        self.after = make_after(federation)
        self._whole = WholeModel(federation.engine, federation.state)
        shares = {
            CAPABILITY: None if self.masks is None else self.masks.shares,
            UPLINK_SHARE: self.exchange.shares,
        }
        # Clients that nobody waits for any more since the last round, and how long they had been at work.
        self.late: list[Time] = []
        self._states: ClientStates | None = None
        self._learning = {name: each for name, each in shares.items() if each is not None and each.learns}

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `Rounds.run`. If any client fails, every rank raises and nothing has changed."""
        if not cohort:
            raise RoundError(
                f"round {round_}: no client is up, or will be: --sampling {self.federation.config.sampling}"
            )
        self.exchange.after = self.after if round_ < self.federation.config.rounds else None
        if self.masks is None:
            outcome = self._run(round_, cohort)
            outcome.shares = [self.shares(client) for client in cohort]
            self.sampler.observe(outcome.reports)
            return outcome
        before = self.masks.snapshot(round_)
        try:
            self.masks.begin(round_, cohort)
            outcome = self._run(round_, cohort)
        except Exception:
            self.masks.restore(before)
            raise
        self.masks.close(self.exchange.mean_update)
        outcome.shares = [self.shares(client) for client in cohort]
        self.sampler.observe(outcome.reports)
        if self.federation.ranks.is_server:
            outcome.mask_bytes, outcome.holdings = self.masks.mask_bytes, self.masks.holdings(cohort)
            outcome.rewound_bytes, outcome.told_by = self.masks.rewound_bytes, self.masks.told_by
            outcome.held_buffers = self.masks.common.buffer_count(self.federation.state.buffers.numel())
            outcome.held = sum(self.masks.held(client) for client in cohort) / len(cohort)
        return outcome

    def cohort(self, round_: int, now: float = 0.0) -> list[int]:
        """As in `Rounds.cohort`; a function of these, the seed, and what the sampler was told."""
        config = self.federation.config
        return self.sampler.draw(range(config.clients or 0), config.clients_per_round or 0, round_, now=now)

    def wait_s(self, client: int, now: float) -> float:
        """As in `Rounds.wait_s`."""
        return self.sampler.wait_s(client, now)

    @property
    def by_time(self) -> bool:
        """As in `Rounds.by_time`."""
        return self.sampler.by_time or bool(self._learning)

    @property
    def capabilities(self) -> list[float] | None:
        """As in `Rounds.capabilities`."""
        return None if self.masks is None else self.masks.able

    def shares(self, client: int) -> dict[str, float]:
        """The columns of clients.csv that say how much of the model, and of the uplink, are a client's now."""
        shares = {
            CAPABILITY: None if self.masks is None else self.masks.capability(client),
            UPLINK_SHARE: None if self.exchange.shares is None else self.exchange.shares[client],
        }
        return {name: share for name, share in shares.items() if share is not None}

    def timed(self, round_: int, rows: Sequence[Mapping[str, float]]) -> list[str]:
        """As in `Rounds.timed`: a line for each kind of shares that changed."""
        config = self.federation.config
        if config.finetune_rounds and round_ >= config.rounds - 1:
            return []  # parts stay
        lines = []
        for name, shares in self._learning.items():
            begin = "start_s" if name == CAPABILITY else "sent_s"
            times = [Time(int(row["client"]), row["arrive_s"] - row[begin], row[name]) for row in rows]
            changes = shares.observe(times, self.late if name == CAPABILITY else ())
            if changes:
                words = ", ".join(f"{each.client} {each.before:g} to {each.after:g}" for each in changes)
                lines.append(
                    f"after round {round_} the {name.replace('_', ' ')} changes, from virtual times: client {words}"
                )
        return lines

    def plan(self) -> dict[str, Any]:
        """As in `Rounds.plan`: the losses that sampling goes by, and what was learnt of the clients' times."""
        learnt = {name: each.state_dict() for name, each in self._learning.items()}
        return {"losses": sorted(self.sampler.losses.items()), "learnt": learnt}

    def load_plan(self, plan: dict[str, Any]) -> None:
        """As in `Rounds.load_plan`."""
        self.sampler.losses = dict(plan["losses"])
        for name, each in self._learning.items():
            each.load_state_dict(plan["learnt"][name])

    def before_evaluation(self, round_: int, cohort: list[int]) -> None:
        """As in `Rounds.before_evaluation`: statistics that no client sends are asked for."""
        if self.masks is not None and self.masks.static_statistics:
            ask_statistics(self.federation, self.trainer, round_, cohort)

    def evaluated(self, round_: int, val_score: float | None) -> None:
        """As in `Rounds.evaluated`."""
        if self.masks is not None:
            self.masks.evaluated(round_, val_score)

    @property
    def ledger(self) -> Ledger | None:
        """As in `Rounds.ledger`."""
        return None

    def unfinished(self) -> list[Wasted]:
        """As in `Rounds.unfinished`: a round has ended when all its clients have."""
        return []

    @property
    def query_bytes(self) -> tuple[int, int]:
        """As in `Rounds.query_bytes`: the whole model down and its statistics up, once, where no client sends them."""
        state = self.federation.state
        if self.masks is None or not self.masks.static_statistics or not norms(self.federation.engine.model):
            return 0, 0
        return dense_bytes(state.buffers.numel()), dense_bytes(state.parameters.numel())

    def _model(self, client: int, round_: int) -> LocalModel:
        return self._whole if self.masks is None else self.masks.local(client, round_)

    def _run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        self.exchange.open(round_, cohort)
        self._train_all(dict.fromkeys(cohort, round_), round_)
        return self.exchange.step()

    def _train_all(self, numbers: Mapping[int, int], version: int) -> None:
        """Train and upload those of these clients that this rank hosts; `numbers` as in `_train_one`, in cohort order."""
        try:
            for client, number in numbers.items():
                if self.federation.ranks.hosts(client):
                    self.exchange.upload(self._train_one(client, number, version))
        except RoundError:
            raise
        except Exception:
            with contextlib.suppress(RoundError):
                self.exchange.abort()
            raise

    def _train_one(self, client: int, number: int, version: int) -> Update:
        """Train a client, for whose data `number` is the seed, from this version of the global model."""
        federation, algorithm = self.federation, self.course.algorithm
        if self._states is not None:
            self._states.fetch(client)
        model = self._model(client, version)
        self.course.begin(client, len(federation.parts[client]), federation.state.parameters, version)
        with self._corrected():
            later = {} if version == number else {"version": version}
            update = self.trainer.train(client, number, model, **later)
        update.values = algorithm.end(client, update.values)
        return update

    @contextlib.contextmanager
    def _corrected(self) -> Iterator[None]:
        if self._gradients is None:
            yield
            return
        self._gradients.on = True
        try:
            yield
        finally:
            self._gradients.on = False

    @property
    def has_client_state(self) -> bool:
        """As in `Rounds.has_client_state`."""
        return self.exchange.has_client_state

    def client_state(self, client: int) -> dict[str, Tensor]:
        """As in `Rounds.client_state`."""
        return self.exchange.client_state(client)

    def load_client_state(self, client: int, state: dict[str, Tensor]) -> None:
        """As in `Rounds.load_client_state`."""
        self.exchange.load_client_state(client, state)

    def attach_states(self, states: ClientStates) -> bool:
        """As in `Rounds.attach_states`; with a hook a rank has one client, whose state stays."""
        if self.federation.config.exchange == "hook":
            return False
        self._states = states
        return True

    def server_state(self) -> dict[str, Tensor]:
        """As in `Rounds.server_state`."""
        state = {"parameters": self.federation.state.parameters, "buffers": self.federation.state.buffers}
        if self.exchange.server is not None:
            state.update(self.exchange.server.state_dict())
        own = self.course.algorithm.server_state().items()
        state.update({f"algorithm.{name}": value for name, value in own})
        return state if self.masks is None else {**state, **self.masks.state_dict()}

    def load_server_state(self, state: dict[str, Tensor]) -> None:
        """As in `Rounds.load_server_state`."""
        self.federation.state.parameters.copy_(state.pop("parameters"))
        self.federation.state.buffers.copy_(state.pop("buffers"))
        prefix = "algorithm."
        own = {name.removeprefix(prefix): state.pop(name) for name in list(state) if name.startswith(prefix)}
        self.course.algorithm.load_server_state(own)
        if self.masks is not None:
            self.masks.load_state_dict(state)
        if self.exchange.server is not None:
            self.exchange.server.load_state_dict(state)
