"""Rounds in virtual time: the server steps when enough updates have arrived, whatever versions they started from.

Every rank runs the same simulator and knows who arrives when. A client's result depends only on the version that it started
from, so it is trained at the latest moment before its payload's size is needed or the version ends, with all others that
wait for the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compression import Codec
from compression.phases import phase
from fl.clock.adaptive import Time
from fl.clock.clock import InFlight, Start, VirtualClock, columns
from fl.clock.simulator import Arrival
from fl.comm.inbox import Inbox, Pending
from fl.comm.ledger import Ledger
from fl.comm.message import Message, decode_model
from fl.models.submodel import Submodel
from fl.training.cost import samples_trained
from fl.training.worker import Worker

from .base import transaction
from .federated import FederatedRounds
from .result import Charge, Dropped, RoundResult
from .sampling import Sampler
from .schedules import Arrived, make_schedule
from .staleness import weight


class TimedRounds(FederatedRounds):
    """A round is one step of the server. Clients in flight go on in the next round, unless the schedule drops them."""

    def __init__(self, worker: Worker, sampler: Sampler) -> None:
        super().__init__(worker, sampler)
        self.schedule = make_schedule(worker.config)
        self._costs = worker.make_costs()
        self.in_flight = InFlight(worker.config, self._make_clock())
        self.inbox = Inbox(self.state)
        self._ledger = Ledger(parameters=self.state.parameters.numel(), buffers=self.state.buffers.numel())
        self.version = 0
        self._untrained: set[int] = set()
        self._dropped: list[Dropped] = []
        self.participants += [self.in_flight, self.inbox, self._ledger]

    def _make_clock(self) -> VirtualClock:
        self._costs.each([self.worker.engine.model], [1])  # refused now, or in the first round
        return VirtualClock.of(self.worker.config, self._upload_bytes)

    def run(self, number: int) -> RoundResult:
        with transaction(self.participants):
            self._open(number)
            arrived: list[Arrived] = []
            while len(arrived) < self.schedule.size:
                for client in self.schedule.draw(self, arrived):
                    self._start(client)
                arrival = self.schedule.next(self, arrived)
                if arrival is not None:
                    taken = self._take(arrival)
                    arrived = arrived if taken is None else self.schedule.add(self, arrived, taken)
                elif self.schedule.is_over(self, arrived):
                    break
            self.close()
            result = self._step(number, arrived)
            self.sampler.observe(result.reports)
        return result

    def _open(self, number: int) -> None:
        self.rejections.begin(number, min(len(self.present()), self.worker.config.clients_per_round or 0))
        self.version, self.late = number, []
        self._untrained, self._dropped = set(), []
        self.schedule.open()

    def free(self) -> list[int]:
        """The clients that can be asked: not in flight, and not left out."""
        return [client for client in self.present() if client not in self.in_flight.starts]

    def draw(self, free: Sequence[int], count: int, *, purpose: str, number: int) -> list[int]:
        """`count` of the clients `free`, as the sampler draws them now."""
        return self.sampler.draw(free, count, self.version, now=self.in_flight.now, purpose=purpose, number=number)

    def close(self) -> None:
        """The server steps or draws anew. Late clients are dropped, or trained before this version of the model is
        gone."""
        if self.schedule.drops:
            self.give_up(self.in_flight.starts)
        else:
            self._train()

    def give_up(self, late: Iterable[int]) -> None:
        """Stop waiting for these clients. Messages that they have begun to download or to send are charged."""
        for client in sorted(late):
            start = self.in_flight.starts[client]
            if self._has_begun(start):
                self._dropped.append(self._cost_so_far(client, start))
                column = self.plan.fractions.column
                if column:
                    self.late.append(Time(client, self.in_flight.now - start.begun_s, start.columns[column]))
            else:
                self._ledger.restore(client, start.noted)
            self._untrained.discard(client)
            self.states.forget(client)  # what it has not kept is as if it had not been asked
            self.inbox.drop(client, self.in_flight.number(client))
            self.inbox.forget(client)
            self.in_flight.give_up(client)

    def replace(self, old: Arrived) -> None:
        """Discard an update that has arrived; it is charged all the same."""
        client = old.arrival.client
        self.inbox.drop(client, old.arrival.number)
        self._dropped.append(Dropped(client, old.start.download_bytes, old.report.uplink_bytes))

    def _take(self, arrival: Arrival) -> Arrived | None:
        """An arrival frees its client's place; None if the update is rejected."""
        client, inbox = arrival.client, self.inbox
        start, report, rejection = (
            self.in_flight.starts.pop(client),
            inbox.reports.get(client),
            inbox.rejections.get(client),
        )
        inbox.forget(client)
        if report is not None:
            return Arrived(arrival, start, report)
        assert rejection is not None
        self._dropped.append(Dropped(client, start.download_bytes, rejection.sent_bytes, rejection.reason))
        return None

    def _step(self, number: int, arrived: Sequence[Arrived]) -> RoundResult:
        ages = [number - each.start.version for each in arrived]
        self.begin()
        published = self.apply(self.transport.share(lambda: self._aggregate(number, arrived, ages)))
        self._ledger.publish(published)
        self.inbox.keep_versions(start.version for start in self.in_flight.starts.values())
        self.held.mean = sum(each.start.held for each in arrived) / len(arrived)
        return RoundResult(
            [each.report for each in arrived],
            self.held,
            published,
            self.server.update_norm,
            columns=[
                {**columns(each.arrival), "staleness": age, **each.start.columns}
                for each, age in zip(arrived, ages, strict=True)
            ],
            charges=[Charge(each.start.download_bytes, each.start.flops, each.start.memory_bytes) for each in arrived],
            dropped=self._dropped,
            now=self.in_flight.now,
        )

    @phase("server")
    def _aggregate(self, number: int, arrived: Sequence[Arrived], ages: Sequence[int]) -> dict[str, Tensor]:
        """On the ranks that serve: step on the sum of weight * samples * update over the sum of samples, by the weight of
        each age.

        Buffers move as the model does: b becomes the sum of samples * (w b_client + (1 - w) b) over the sum of samples.
        """
        for each, age in zip(arrived, ages, strict=True):
            by_age = weight(self.worker.config.staleness, age)
            pending = self.inbox.pending.pop((each.arrival.client, each.arrival.number))
            submodel, sections = pending.submodel, pending.message.sections
            update, buffers = decode_model(sections, "update", self.state, self._codec(submodel), submodel)
            self.held.add(update, submodel, self.worker.engine.model)
            own = self.local_plan.weight(each.report.samples)
            aggregator = self.server.aggregator
            if self.schedule.mixes_models:
                moved = torch.sub(self.state.parameters, self.inbox.versions[each.start.version])
                aggregator.add_distance(moved, by_age * own)
            buffer_scale = self.schedule.alpha * by_age
            part = self.server.shards.part_of(update)
            aggregator.add(part, buffers, own, submodel, scale=by_age, buffer_scale=buffer_scale)
        return self.step(number, [each.report for each in arrived])

    def _start(self, client: int) -> None:
        worker, now = self.worker, self.in_flight.now
        self._untrained.add(client)
        self.plan.begin(self.version, sorted(self._untrained))
        model = self.plan.submodel(client).model(worker.engine.model)
        [samples] = samples_trained(worker.config, [worker.sizes[client]])
        [flops] = self._costs.flops([model], [samples])
        size = self.plan.sizes([client]).get(client)
        noted, (download_bytes, _) = self._ledger.noted(client), self._ledger.download(client, size)
        start = Start(
            version=self.version,
            begun_s=now + self.sampler.wait_s(client, now),
            download_bytes=download_bytes,
            held=self.plan.held(client),
            flops=flops,
            memory_bytes=self._costs.memory_bytes([model]) or 0,
            columns=self.columns(client),
            noted=noted,
        )
        if not self.in_flight.start(client, start):
            # It goes away with what it downloaded: it is not trained, and must download everything if it comes back.
            self._untrained.remove(client)
            self._ledger.forget(client)
        elif self.schedule.mixes_models and self.ranks.is_server and self.version not in self.inbox.versions:
            self.inbox.versions[self.version] = self.state.parameters.clone()

    def _upload_bytes(self, client: int) -> int:
        """Bytes of a client's upload, which the simulator asks for; the client is trained now if it has not been."""
        if client in self._untrained:
            self._train()
        return self.inbox.sent_bytes(client)

    def _train(self) -> None:
        """Train all that have started from the present version, each on its rank. Collective."""
        if self._untrained:
            self._collect(sorted(self._untrained), self.version)
        self._untrained = set()

    def _collect(self, clients: Sequence[int], version: int) -> None:
        """Have in the inbox what these clients, which started from that version, come to. Collective."""
        numbers = {client: self.in_flight.number(client) for client in clients}

        def take(message: Message) -> None:
            submodel = self.plan.submodel(message.report.client)
            self.decode(message, submodel, self._codec(submodel))  # refused now, while its residual can be kept
            self.inbox.pending[message.report.client, numbers[message.report.client]] = Pending(message, submodel)

        already = len(self.rejections.of_round)
        reports = self.gather(numbers, version, take)
        if not self.schedule.drops:
            self.states.keep()  # a client may start again before the server takes its update
        self.inbox.reports.update({report.client: report for report in reports})
        self.inbox.rejections.update({each.client: each for each in self.rejections.of_round[already:]})

    def _codec(self, submodel: Submodel) -> Codec:
        return submodel.codec(self.encoder.uplink.codec)

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def unfinished(self) -> list[Dropped]:
        """Clients in flight, lost ones included."""
        starts = sorted(self.in_flight.starts.items())
        return [self._cost_so_far(client, start) for client, start in starts if self._has_begun(start)]

    def _has_begun(self, start: Start) -> bool:
        """Otherwise the client waits until it is up."""
        return start.begun_s <= self.in_flight.now

    def _cost_so_far(self, client: int, start: Start) -> Dropped:
        """The bytes of a client in flight: each message as a whole as soon as it has begun."""
        sent = self.inbox.sent_bytes(client) if self.in_flight.uploads(client) else 0
        rejection = self.inbox.rejections.get(client)
        return Dropped(client, start.download_bytes, sent, rejection.reason if rejection else "")

    def state_dict(self) -> dict[str, Any]:
        own = {"in_flight": self.in_flight.state_dict(), "inbox": self.inbox.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.in_flight.load_state_dict(state["in_flight"])
        buffers = self.plan.published.buffers
        self.inbox.load_state_dict(state["inbox"], buffers=buffers, serves=self.ranks.serves)
