"""Rounds with a server: clients train apart, rank 0 steps, and its change goes to every rank."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor

from compression import Codec, NonFiniteError, PayloadError, make_codec
from compression.codec import BUFFERS, most_bytes
from compression.phases import phase
from compression.wire import Sparse, dense_bytes
from fl.clock.adaptive import Fractions, Time, uplink_fractions
from fl.comm.encoder import CodecSchedule, Encoder
from fl.comm.message import (
    Bounds,
    ClientReport,
    Message,
    Rejection,
    apply_change,
    decode_model,
    encode_buffers,
)
from fl.comm.transport import Transport
from fl.common.errors import PeerError, RoundError, in_one_line
from fl.common.seeds import derive_seed
from fl.common.tensor_files import State, join_state, split_state, tensors_to_bytes
from fl.models.submodel import Submodel
from fl.models.update import Job, Update
from fl.output.client_states import make_states
from fl.output.layers import LayerCounts
from fl.pruning.build import make_plan
from fl.server.aggregate import Aggregate, Aggregator
from fl.server.optimizers import make_server_optimizer
from fl.server.privacy import make_privacy
from fl.server.private_mean import PrivateMean
from fl.server.rules import make_aggregator
from fl.server.server import Server
from fl.training.engine.optimizer import count_moments
from fl.training.gradients import CorrectedGradients
from fl.training.local_model import LocalModel
from fl.training.static_batchnorm import ask_statistics, norms
from fl.training.worker import Worker

from .base import Participant, Rounds
from .rejections import Rejections
from .result import Held
from .sampling import Sampler

_LARGEST = 1e30
"""Sums of updates and buffers below it, weighted by samples, stay finite in fp32."""


class FederatedRounds(Rounds):
    """The parts of a round with a server, and its stages.

    The stages: `messages` on the clients' ranks, `receive` for each message and `step` on rank 0, then `apply` on all.
    `gather` is the first two, and goes on without clients that fail, as far as `rejections` lets it.
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
        self._privacy = make_privacy(config)
        self.encoder = Encoder(uplink, config.error_feedback, uplink_fractions(config), state.layout, config.seed)
        self.transport = Transport(self.ranks, state.parameters.numel() + state.buffers.numel())
        self.server = Server(
            state,
            lambda params: make_server_optimizer(config, params),
            self.downlink,
            error_feedback=config.error_feedback != "none",
            make_aggregator=self._make_aggregator,
            shards=self.ranks.shards,
        )
        self.rejections = Rejections(self.ranks, config.min_clients)
        self.states = make_states(config, self.ranks)
        self.participants: list[Participant] = [
            *(self.states, self.algorithm, self.plan, self.server, self.sampler, self.rejections),
            *([] if self._privacy is None else [self._privacy]),
        ]
        self.held = Held()
        self.late: list[Time] = []
        """Clients that the server gave up on since the last round, with their busy time."""

    def _make_aggregator(self) -> Aggregator:
        if self._privacy is not None:
            return PrivateMean(self.state, self._privacy)
        return make_aggregator(
            self.worker.config.aggregate, self.server.part, apart=self.plan.differs, damped=self.plan.damped
        )

    def gather(self, numbers: Mapping[int, int], version: int, take: Callable[[Message], object]) -> list[ClientReport]:
        """Train these clients (see `messages`) and let rank 0 `take` their messages, in this order. Collective.

        Returns the reports of those whose updates count, the same on every rank. A client fails if its training does, or
        if its report or message is refused: it is as if it had not been asked, and its residual is as before.
        """
        refused: dict[int, str] = {}
        failure: Exception | None = None
        already, clients = len(self.rejections.of_round), list(numbers)
        bounds = {client: self._bounds(client, version) for client in clients}
        for message in self.transport.gather(
            clients,
            self.messages(numbers, version),
            bounds.__getitem__,
            self.rejections.reject,
            lambda: self.made(version),
        ):
            try:
                if failure is None:
                    take(message)
            except (PayloadError, MemoryError) as error:
                refused[message.report.client] = str(error) or "it does not fit into memory"
            except Exception as error:  # raised below, where every rank waits
                failure = error
        accepted = self._tell_refused(refused, failure)
        for rejection in self.rejections.of_round[already:]:
            for each in (self.states, self.plan):
                each.forget(rejection.client)
        self.rejections.accepted(accepted)
        return accepted

    def made(self, number: int) -> None:
        """This rank has made its messages of a round. If it raises on any rank, every rank raises."""

    def _tell_refused(self, refused: Mapping[int, str], failure: Exception | None) -> list[ClientReport]:
        """Rank 0 tells which messages it has `refused`, and why; the reports of the others. Every rank raises on a
        `failure`."""

        try:
            if self.ranks.shards is not None:
                with self.ranks.shards.together():
                    if failure is not None:
                        raise failure
                    if not self.ranks.shards.all_agree(hash(tuple(refused))):
                        raise RoundError("a message was refused on some ranks of the server and not on others")
        except PeerError as error:
            failure = error

        def told() -> dict[int, str]:
            if failure is not None:
                raise failure
            return dict(refused)

        reasons = self.ranks.share_json(told)
        for report in self.transport.reports:
            if (reason := reasons.get(str(report.client))) is not None:
                self.rejections.reject(Rejection(report.client, reason, report.uplink_bytes))
        return [report for report in self.transport.reports if str(report.client) not in reasons]

    def messages(self, numbers: Mapping[int, int], version: int) -> Iterator[Message | Rejection | None]:
        """The messages of the clients that this rank trains, or why they have none; None where a peer hosts the client.
        Each client trains from `version` when its message is asked for.

        `numbers`: client -> the `number` of its `Job`, which seeds its random choices. `version`: of the global model.
        """

        own: dict[int, State] = {}

        def trained_here() -> Iterator[int]:
            for client in filter(self.ranks.trains, numbers):
                own[client] = self.states.get(client)
                yield client

        def prepare(client: int) -> tuple[Job, LocalModel]:
            return self.prepare(client, numbers[client], version, own.pop(client))

        for client, trained in self.trainer.train_many(trained_here(), prepare, self.corrections):
            if not self.ranks.hosts(client):
                yield None
                continue
            outcome: Message | Rejection
            try:
                if isinstance(trained, BaseException):
                    raise trained
                outcome, state = self._encode(*trained)
            except NonFiniteError as error:
                outcome = Rejection(client, str(error))
            except PeerError as error:
                outcome = Rejection(client, str(error), error=error.error)
            except (Exception, SystemExit) as error:
                outcome = Rejection(client, in_one_line(error), error=error)
            else:
                self.states.put(client, state)
            yield outcome

    def _encode(self, job: Job, update: Update) -> tuple[Message, State]:
        """The message, and what the client keeps."""
        update.values = self.algorithm.on_client(job.client, update.values)
        sections, residual_mask = self.plan.sections(job.client), self.plan.residual_mask(job.client)
        message, decoded, sender = self.encoder.encode(job, update, sections, residual_mask)
        algorithm = self.algorithm.sent(job.client, decoded, job.state.get("algorithm", {}))
        return message, {"sender": sender, "algorithm": algorithm, **update.kept}

    def _bounds(self, client: int, version: int) -> Bounds:
        """The largest report that `client` can rightly send."""
        n, m = self.state.parameters.numel(), self.state.buffers.numel()
        codec = self.encoder.codec(Job(client, version, version))
        sizes = {"update": codec.most_bytes(self.state.layout), "buffers": most_bytes(m)}
        return Bounds(self.worker.sizes[client], n, sizes)

    def prepare(self, client: int, number: int, version: int, state: State) -> tuple[Job, LocalModel]:
        """The job of a client with this `state`, and the model that it trains."""
        model, samples = self.plan.local(client, version), self.worker.sizes[client]
        state = self._for_peers(state)
        self.local_plan.begin(client, samples, self.state.parameters, version, state.get("algorithm", {}))
        return Job(client, number, version, self.plan.submodel(client), state), model

    def _for_peers(self, state: State) -> State:
        """What a client keeps, on each of its ranks: it lives on the first, which alone needs the residual."""
        peers = self.ranks.peers
        if peers is None:
            return state
        payload = None
        with peers.together():
            if peers.rank == 0:
                tensors, _ = split_state({name: kept for name, kept in state.items() if name != "sender"})
                payload = torch.frombuffer(bytearray(tensors_to_bytes(tensors)), dtype=torch.uint8)
        shared = join_state(load(peers.broadcast(payload).cpu().numpy().tobytes()))
        return state if peers.rank == 0 else shared

    def begin(self) -> None:
        """On rank 0: before the first message of a round."""
        layers = LayerCounts(self.state.layout) if self.worker.config.prune != "none" else None
        self.held = Held(buffers=self.plan.published.buffer_count(self.state.buffers.numel()), layers=layers)
        if self.ranks.serves:
            self.server.aggregator.reset()

    @phase("server")
    def receive(self, message: Message, number: int) -> None:
        """On the ranks that serve: decode a client's message and aggregate it. PayloadError before anything of it counts."""
        report, client = message.report, message.report.client
        weight, steps = self.local_plan.weight(report.samples), self.local_plan.steps(report.samples)
        self.plan.learn_submodel(client, message.sections)
        submodel = self.plan.submodel(client)
        update, buffers = self.decode(message, submodel, self.encoder.codec(Job(client, number, number, submodel)))
        self.plan.receive(client, message.sections, weight)
        self.held.add(update, submodel, self.worker.engine.model)
        self.algorithm.receive(client, update, steps, self.local_plan.lr(number))
        self.server.aggregator.add(self.server.shards.part_of(update), buffers, weight, submodel)

    @phase("decode")
    def decode(self, message: Message, submodel: Submodel, codec: Codec) -> tuple[Sparse, Sparse | None]:
        """On rank 0: the update and the buffers in a client's message; PayloadError for what no training ends in."""
        update, buffers = decode_model(message.sections, "update", self.state, codec, submodel)
        for name, sparse in (("update", update), ("buffers", buffers)):
            if sparse is None or not sparse.values.numel():
                continue
            # The norm of order infinity is the same number, and takes 20 times as long.
            largest = float(torch.stack(sparse.values.aminmax()).abs().max())
            if not largest <= _LARGEST:
                raise PayloadError(
                    f"its {name} holds a number of magnitude {largest:g}, and above {_LARGEST:g} no step can be taken: "
                    "lower the learning rate, or clip the gradient"
                )
        if buffers is not None and self.state.has_negative_variance(buffers):
            raise PayloadError("its BatchNorm statistics hold a negative variance")
        return update, buffers

    @phase("server")
    def step(self, number: int, reports: Sequence[ClientReport]) -> dict[str, Tensor]:
        """On the ranks that serve: the server's step on the received updates, whose reports these are. Returns the sections
        to publish, on rank 0."""
        mean = self.server.aggregator.result()
        samples = [report.samples for report in reports]
        weights, steps = (
            [self.local_plan.weight(each) for each in samples],
            [self.local_plan.steps(each) for each in samples],
        )
        mean.update = self.algorithm.on_server(mean.update, weights, steps)
        return self.publish(number, mean)

    @phase("server")
    def publish(self, number: int, mean: Aggregate) -> dict[str, Tensor]:
        """On the ranks that serve: the server's step on this mean. Returns the sections to publish, on rank 0."""
        key = derive_seed(self.encoder.seed, "downlink", number)
        submodel = self.plan.published
        change = self.server.step(mean, key=key, submodel=submodel, rewound=self.plan.rewound)
        if change is None:
            return {}
        sections = {"change": change, **encode_buffers(submodel.gather_buffers(mean.buffers))}
        self.plan.learn(mean.update)
        variate = self.algorithm.broadcast()
        return sections if variate is None else {**sections, "variate": BUFFERS.encode(variate)[0]}

    @phase("decode")
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

    @property
    def privacy(self) -> dict[str, float]:
        return {} if self._privacy is None else self._privacy.columns

    @property
    def left_out(self) -> list[int]:
        return self.rejections.left_out

    def present(self) -> list[int]:
        """All clients that are not left out, ascending."""
        out = set(self.left_out)
        return [client for client in range(self.worker.config.clients or 0) if client not in out]

    def end(self, number: int, val_score: float | None) -> None:
        self.plan.observe(number, val_score)

    @property
    def kept_vectors(self) -> int:
        return self.encoder.kept_vectors + self._kept_of_training

    @property
    def _kept_of_training(self) -> int:
        return self.algorithm.kept_vectors + self.plan.kept_vectors + count_moments(self.worker.config)

    @property
    def clients_keep(self) -> bool:
        """Whether clients keep anything from round to round, on the rank that hosts them."""
        return self.encoder.keeps or self._kept_of_training > 0 or self.worker.config.prune != "none"

    def put_states(self) -> None:
        if self.ranks.serves:
            self.server.collect_moments()

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": {"parameters": self.state.parameters.clone(), "buffers": self.state.buffers.clone()},
            "server": self.server.state_dict(),
            "algorithm": self.algorithm.server_state(),
            "plan": self.plan.state_dict(),
            "sampler": self.sampler.state_dict(),
            "rejections": self.rejections.state_dict(),
            "fractions": [each.state_dict() for each in self.fractions],
            "privacy": {} if self._privacy is None else self._privacy.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state.parameters.copy_(state["model"]["parameters"])
        self.state.buffers.copy_(state["model"]["buffers"])
        self.algorithm.load_server_state(state["algorithm"])
        self.plan.load_state_dict(state["plan"])
        self.sampler.load_state_dict(state["sampler"])
        self.rejections.load_state_dict(state["rejections"])
        for each, own in zip(self.fractions, state["fractions"], strict=True):
            each.load_state_dict(own)
        if self._privacy is not None:
            self._privacy.load_state_dict(state["privacy"])
        if self.ranks.serves:
            self.server.load_state_dict(state["server"])
