"""Rounds through a DDP communication hook: one client per rank, averaged by the hook."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compression import CodecHook, FlatBucket, Layout, codec_hook
from compression.ddp.hooks import Traffic
from compression.phases import phase
from fl.comm.ddp_hooks import count_collectives, load_hook
from fl.comm.encoder import CodecSchedule
from fl.comm.message import ClientReport
from fl.common.errors import RoundError
from fl.common.generators import seeded
from fl.common.ranks import Ranks
from fl.models.update import Job, Update
from fl.server.aggregate import Aggregate
from fl.training.worker import Worker

from .base import transaction
from .federated import FederatedRounds
from .result import Held, Peers, RoundResult, gather_reports
from .sampling import Sampler


class OwnHook:
    """The hook of the codec of `--uplink`. A residual is the client's own when the round is committed."""

    def __init__(self, codec: CodecHook, uplink: CodecSchedule) -> None:
        self.codec = codec
        self._uplink = uplink

    def run(self, number: int, bucket: Any) -> tuple[Any, Traffic]:
        """The hook's answer to a `FlatBucket` in a round, and the bytes of it."""
        self.codec.calls, self.codec.sender.codec = number, self._uplink.at(number)
        self.codec.traffic = traffic = Traffic()
        return codec_hook(self.codec, bucket).wait(), traffic

    def commit(self) -> None:
        """The round has succeeded."""
        self.codec.sender.keep()

    def rollback(self) -> None:
        """The round has failed: the hook forgets it."""
        self.codec.sender.forget()

    def state_dict(self) -> dict[str, Tensor]:
        """What the hook remembers, by parameter name; its calls are the rounds."""
        return self.codec.sender.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self.codec.load_state_dict(state)


class ForeignHook:
    """The hook of `--hook`. Nobody can look at what it remembers, save it or take it back."""

    def __init__(self, text: str, ranks: Ranks, seed: int) -> None:
        self._state, self._hook = load_hook(text)
        self._ranks = ranks
        self._seed = seed

    def run(self, number: int, bucket: Any) -> tuple[Any, Traffic]:
        """The hook's answer to a `FlatBucket` in a round, and the bytes of it; RoundError if none can be counted."""
        with count_collectives() as traffic, seeded(self._seed, "hook", number):
            result = self._hook(self._state, bucket).wait()
        if self._ranks.world_size > 1 and not traffic.sent_bytes and not traffic.received_bytes:
            raise RoundError("the hook made no collective call whose bytes can be counted")
        traffic.kept = bucket.buffer().numel()
        return result, traffic

    def commit(self) -> None:
        """The round has succeeded."""

    def rollback(self) -> None:
        """The round has failed."""

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """There is nothing."""


class HookRounds(FederatedRounds):
    """Updates go once through a hook on a `FlatBucket`; the hook averages, rank 0 steps and broadcasts.

    The bucket holds the parameters in reverse order, as DDP's do. A hook averages without weights, so each update is
    scaled by ranks * samples / all samples beforehand. Bytes are counted at the collective calls.
    """

    def __init__(self, worker: Worker, sampler: Sampler) -> None:
        super().__init__(worker, sampler)
        config, layout = worker.config, self.state.layout
        named = dict(worker.engine.model.named_parameters())
        self._parameters = [named[name] for name in reversed(layout.names)]
        self._layout = Layout.of((name, named[name]) for name in reversed(layout.names))
        self.hook: OwnHook | ForeignHook
        if config.hook:
            self.hook = ForeignHook(config.hook, self.ranks, config.seed)
        else:
            uplink, feedback = self.encoder.uplink, config.error_feedback
            codec = CodecHook(uplink.codec.spec, named.items(), error_feedback=feedback, seed=config.seed, keeps=False)
            self.hook = OwnHook(codec, uplink)
        self.participants.append(self.hook)

    def run(self, number: int) -> RoundResult:
        with transaction(self.participants):
            update, samples = self._train(number)
            total = int(samples.sum())
            mean, traffic = self._average(number, update, update.samples * self.ranks.world_size / total)
            buffers = (update.buffers * (update.samples / total)).to(self.ranks.wire_device)
            if buffers.numel():
                with phase("transfer"):
                    dist.all_reduce(buffers)
            buffers_bytes = buffers.numel() * buffers.element_size()
            report = ClientReport(
                client=update.client,
                samples=update.samples,
                train_loss=update.train_loss,
                train_s=update.train_s,
                kept=traffic.kept,
                sizes={"update": traffic.sent_bytes + buffers_bytes},
                moved=update.moved,
                halved=update.halved,
            )
            reports, received = gather_reports(self.ranks, report, traffic.received_bytes + buffers_bytes)
            average = Aggregate(mean, buffers.to(self.ranks.device))
            published = self.apply(self.transport.share(lambda: self.publish(number, average)))
            self.sampler.observe(reports)
        n, m = self.state.parameters.numel(), self.state.buffers.numel()
        return RoundResult(
            reports,
            Held(n, m),
            published,
            self.server.update_norm,
            peers=Peers(1, received),
        )

    def _train(self, number: int) -> tuple[Update, Tensor]:
        """This rank's update, and the samples of all ranks."""
        client, failure = self.ranks.rank, None
        own = torch.zeros(2, dtype=torch.int64)  # samples, and whether it has failed
        try:
            update = self.trainer.train(Job(client, number, number), self.plan.local(client, number))
            own[0] = update.samples
        except Exception as error:
            failure = error
            own[1] = 1
        table = self.ranks.gather(own)
        if failure is not None:
            raise failure
        if table[:, 1].any():
            raise RoundError("a client failed in this round; its rank says why")
        return update, table[:, 0]

    def _average(self, number: int, update: Update, weight: float) -> tuple[Tensor, Traffic]:
        """The hook's average of all updates, in the model's order, fp32 [n], and the bytes that took."""
        buffer = self._reversed(update.values.mul_(weight), self.state.layout, self._layout)
        bucket = FlatBucket(buffer.to(self.ranks.wire_device), self._parameters)
        with phase("transfer"):
            result, traffic = self.hook.run(number, bucket)
        result = result[0] if isinstance(result, list) else result
        return self._reversed(result.to(self.ranks.device).float(), self._layout, self.state.layout), traffic

    @staticmethod
    def _reversed(flat: Tensor, source: Layout, target: Layout) -> Tensor:
        return target.gather(reversed(source.views(flat)), torch.empty_like(flat))

    @property
    def kept_vectors(self) -> int:
        """What the one client of a rank keeps stays in the hook."""
        return 0

    def put_states(self) -> None:
        self.states.put(self.ranks.rank, self.hook.state_dict())
        self.states.commit()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        own = self.states.get(self.ranks.rank)
        self.hook.load_state_dict({name: tensor.to(self.ranks.device) for name, tensor in own.items()})
        super().load_state_dict(state)
