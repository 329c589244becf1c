"""Rounds with a server: clients train apart, rank 0 steps, and its change goes to every rank."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from compression import make_codec
from compression.codec import BUFFERS
from compression.wire import dense_bytes
from fl.clock.adaptive import Fractions, Time, uplink_fractions
from fl.comm.encoder import CodecSchedule, Encoder
from fl.comm.message import ClientReport, Message, apply_change, decode_model, encode_buffers
from fl.comm.transport import Transport
from fl.common.seeds import derive_seed
from fl.models.update import Job
from fl.output.client_states import ClientStates
from fl.output.layers import LayerCounts
from fl.pruning.build import make_plan
from fl.server.aggregate import Aggregate
from fl.server.optimizers import make_server_optimizer
from fl.server.rules import make_aggregator
from fl.server.server import Server
from fl.training.gradients import CorrectedGradients
from fl.training.local_model import LocalModel
from fl.training.static_batchnorm import ask_statistics, norms
from fl.training.worker import Worker

from .base import Participant, Rounds
from .result import Held
from .sampling import Sampler


class FederatedRounds(Rounds):
    """The parts of a round with a server, and its stages.

    The stages: `messages` on the clients' ranks, `receive` for each message and `step` on rank 0, then `apply` on all.
    """

    def __init__(self, worker: Worker, sampler: Sampler) -> None:
        config, state = worker.config, worker.state
        self.worker = worker
        self.state = state
        self.ranks = worker.ranks
        self.sampler = sampler
        self.local_plan = worker.local_plan
        self.algorithm = worker.local_plan.algorithm
        # Before the plan, which may mask gradients: the correction is masked too.
        self.corrections = CorrectedGradients(worker.engine.model, state.layout.names, self.algorithm)
        self.trainer = worker.make_trainer()
        self.plan = make_plan(worker, self.trainer)
        self.downlink = make_codec(config.downlink)
        uplink = CodecSchedule(config.uplink, config.uplink_warmup)
        self.encoder = Encoder(uplink, config.error_feedback, uplink_fractions(config), state.layout, config.seed)
        self.transport = Transport(self.ranks, state.parameters.numel() + state.buffers.numel())
        self.server = Server(
            state,
            lambda params: make_server_optimizer(config, params),
            self.downlink,
            error_feedback=config.error_feedback != "none",
            make_aggregator=lambda: make_aggregator(
                config.aggregate, state, apart=self.plan.differs, damped=self.plan.damped
            ),
        )
        self.participants: list[Participant] = [self.encoder, self.algorithm, self.plan, self.server, self.sampler]
        self.held = Held()
        self._fetch: Callable[[int], object] = lambda client: None
        self._failure: Exception | None = None
        self.late: list[Time] = []
        """Clients that the server gave up on since the last round, with their busy time."""

    def messages(self, numbers: Mapping[int, int], version: int) -> Iterator[Message]:
        """The messages of the clients that this rank hosts. Each client trains from `version` when its message is asked
        for.

        `numbers`: client -> the `number` of its `Job`, which seeds its random choices. `version`: of the global model.
        """
        jobs = (
            self._prepare(client, number, version) for client, number in numbers.items() if self.ranks.hosts(client)
        )
        for job, update in self.trainer.train_many(jobs, self.corrections):
            update.values = self.algorithm.on_client(job.client, update.values)
            sections, residual_mask = self.plan.sections(job.client), self.plan.residual_mask(job.client)
            message, decoded = self.encoder.encode(job, update, sections, residual_mask)
            self.algorithm.sent(job.client, decoded)
            yield message

    def _prepare(self, client: int, number: int, version: int) -> tuple[Job, LocalModel]:
        self._fetch(client)
        model = self.plan.local(client, version)
        self.local_plan.begin(client, len(self.worker.parts[client]), self.state.parameters, version)
        return Job(client, number, version, self.plan.submodel(client)), model

    def begin(self) -> None:
        """On rank 0: before the first message of a round."""
        self._failure = None
        layers = LayerCounts(self.state.layout) if self.worker.config.prune != "none" else None
        self.held = Held(buffers=self.plan.published.buffer_count(self.state.buffers.numel()), layers=layers)
        if self.ranks.is_server:
            self.server.aggregator.reset()

    def receive(self, message: Message, number: int) -> None:
        """On rank 0: decode a client's message and aggregate it. An error is raised later, by `step`, for which every
        rank waits."""
        if self._failure is None:
            try:
                self._receive(message, number)
            except Exception as error:
                self._failure = error

    def _receive(self, message: Message, number: int) -> None:
        report, client = message.report, message.report.client
        weight, steps = self.local_plan.weight(report.samples), self.local_plan.steps(report.samples)
        self.plan.receive(client, message.sections, weight)
        submodel = self.plan.submodel(client)
        codec = self.encoder.codec(Job(client, number, number, submodel))
        update, buffers = decode_model(message.sections, "update", self.state, codec, submodel)
        self.held.add(update, submodel, self.worker.engine.model)
        self.algorithm.receive(client, update, steps, self.local_plan.lr(number))
        self.server.aggregator.add(update, buffers, weight, submodel)

    def step(self, number: int, reports: Sequence[ClientReport]) -> dict[str, Tensor]:
        """On rank 0: the server's step on the received updates, whose reports these are. Returns the sections to
        publish."""
        if self._failure is not None:
            raise self._failure
        mean = self.server.aggregator.result()
        samples = [report.samples for report in reports]
        weights, steps = (
            [self.local_plan.weight(each) for each in samples],
            [self.local_plan.steps(each) for each in samples],
        )
        mean.update = self.algorithm.on_server(mean.update, weights, steps)
        return self.publish(number, mean)

    def publish(self, number: int, mean: Aggregate) -> dict[str, Tensor]:
        """On rank 0: the server's step on this mean. Returns the sections to publish."""
        key = derive_seed(self.encoder.seed, "downlink", number)
        submodel = self.plan.published
        change = self.server.step(mean, key=key, submodel=submodel, rewound=self.plan.rewound)
        sections = {"change": change, **encode_buffers(submodel.gather_buffers(mean.buffers))}
        self.plan.learn(mean.update)
        variate = self.algorithm.broadcast()
        return sections if variate is None else {**sections, "variate": BUFFERS.encode(variate)[0]}

    def apply(self, sections: Mapping[str, Tensor]) -> dict[str, int]:
        """On every rank: apply the published sections. Returns the bytes of each."""
        submodel = self.plan.published
        apply_change(self.state, *decode_model(sections, "change", self.state, submodel.codec(self.downlink), submodel))
        if "variate" in sections:
            self.algorithm.apply_broadcast(BUFFERS.decode(sections["variate"], self.state.layout.total).values)
        return {name: section.numel() for name, section in sections.items()}

    def wait_s(self, client: int, now: float) -> float:
        return self.sampler.wait_s(client, now)

    @property
    def fractions(self) -> list[Fractions]:
        """The fractions of the model and of the uplink that each client takes."""
        return [self.plan.fractions, self.encoder.fractions]

    def beginning(self) -> dict[str, Any]:
        capabilities = self.plan.fractions.values
        return {"capabilities": capabilities} if capabilities else {}

    @property
    def by_time(self) -> bool:
        return self.sampler.by_time or any(each.learns for each in self.fractions)

    def columns(self, client: int) -> dict[str, float]:
        """The columns of clients.csv with a client's fractions of the model and of the uplink."""
        return {**self.plan.columns(client), **self.encoder.fractions.columns(client)}

    def timed(self, number: int, now: float, rows: Sequence[Mapping[str, float]]) -> list[str]:
        self.sampler.now = now
        config = self.worker.config
        if config.finetune_rounds and number >= config.rounds - 1:
            return []  # submodels stay
        lines = []
        for each in self.fractions:
            if not each.learns:
                continue
            column, since = each.column, each.since
            times = [Time(int(row["client"]), row["arrive_s"] - row[since], row[column]) for row in rows]
            changes = each.observe(times, self.late if each is self.plan.fractions else ())
            if changes:
                words = ", ".join(f"{one.client} {one.before:g} to {one.after:g}" for one in changes)
                lines.append(
                    f"after round {number} the {column.replace('_', ' ')} changes, from virtual times: client {words}"
                )
        return lines

    def before_evaluation(self, number: int, cohort: Sequence[int]) -> None:
        if self.plan.static_batchnorm:
            ask_statistics(self.worker, self.trainer, number, cohort)

    @property
    def query_bytes(self) -> tuple[int, int]:
        """The whole model down and its statistics up, once, where no client sends them."""
        if not self.plan.static_batchnorm or not norms(self.worker.engine.model):
            return 0, 0
        return dense_bytes(self.state.buffers.numel()), dense_bytes(self.state.parameters.numel())

    def end(self, number: int, val_score: float | None) -> None:
        self.plan.observe(number, val_score)

    def attach_states(self, states: ClientStates) -> bool:
        self._fetch = states.fetch
        return True

    @property
    def has_client_state(self) -> bool:
        return self.encoder.has_client_state or self.algorithm.has_client_state

    def client_state(self, client: int) -> dict[str, Any]:
        own = {"sender": self.encoder.sender(client).state_dict(), "algorithm": self.algorithm.client_state(client)}
        return {name: state for name, state in own.items() if state}

    def load_client_state(self, client: int, state: Mapping[str, Any]) -> None:
        self.algorithm.load_client_state(client, state.get("algorithm", {}))
        sender = {name: tensor.to(self.ranks.device) for name, tensor in state.get("sender", {}).items()}
        self.encoder.sender(client).load_state_dict(sender)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": {"parameters": self.state.parameters, "buffers": self.state.buffers},
            "server": self.server.state_dict(),
            "algorithm": self.algorithm.server_state(),
            "plan": self.plan.state_dict(),
            "sampler": self.sampler.state_dict(),
            "fractions": [each.state_dict() for each in self.fractions],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.parameters.copy_(state["model"]["parameters"])
        self.state.buffers.copy_(state["model"]["buffers"])
        self.algorithm.load_server_state(state["algorithm"])
        self.plan.load_state_dict(state["plan"])
        self.sampler.load_state_dict(state["sampler"])
        for each, own in zip(self.fractions, state["fractions"], strict=True):
            each.load_state_dict(own)
        if self.ranks.is_server:
            self.server.load_state_dict(state["server"])
