"""Rounds through a DDP communication hook: one client per rank, averaged by the hook."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compression import CodecHook, FlatBucket, Layout, codec_hook
from compression.ddp.hooks import Traffic
from fl.comm.ddp_hooks import Hook, count_collectives, load_hook
from fl.comm.message import ClientReport
from fl.common.errors import RoundError
from fl.common.seeds import seeded
from fl.models.update import Job, Update
from fl.output.client_states import ClientStates
from fl.server.aggregate import Aggregate
from fl.training.worker import Worker

from .base import transaction
from .federated import FederatedRounds
from .result import Held, Peers, RoundResult, gather_reports
from .sampling import Sampler


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
        self.codec: CodecHook | None = None
        self._hook_state: Any
        self._hook: Hook
        if config.hook is None:
            spec = self.encoder.uplink.codec.spec
            self.codec = CodecHook(
                spec, named.items(), error_feedback=config.error_feedback, seed=config.seed, keeps=False
            )
            self._hook_state, self._hook = self.codec, codec_hook
            self.participants.append(self)
        else:
            self._hook_state, self._hook = load_hook(config.hook)

    def run(self, number: int) -> RoundResult:
        with transaction(self.participants):
            update, samples = self._train(number)
            total = int(samples.sum())
            mean, traffic = self._average(number, update, update.samples * self.ranks.world_size / total)
            buffers = (update.buffers * (update.samples / total)).to(self.ranks.wire_device)
            if buffers.numel():
                dist.all_reduce(buffers)
            buffers_bytes = buffers.numel() * buffers.element_size()
            report = ClientReport(
                client=update.client,
                samples=update.samples,
                train_loss=update.train_loss,
                train_s=update.train_s,
                kept=traffic.kept if self.codec is not None else update.values.numel(),
                sizes={"update": traffic.sent_bytes + buffers_bytes},
                moved=update.moved,
            )
            reports, received = gather_reports(self.ranks, report, traffic.received_bytes + buffers_bytes)
            average = Aggregate(mean, buffers.to(self.ranks.device))
            published = self.apply(self.transport.share(lambda: self.publish(number, average)))
            self.sampler.observe(reports)
        n, m = self.state.parameters.numel(), self.state.buffers.numel()
        return RoundResult(
            reports,
            [report.client for report in reports],
            Held(n, m),
            published,
            self.server.update_norm,
            peers=Peers(1, received),
        )

    def _train(self, number: int) -> tuple[Update, Tensor]:
        """This rank's update, and the samples of all ranks."""
        if self.codec is not None:
            self.codec.calls = number
            self.codec.sender.codec = self.encoder.uplink.at(number)
        client = self.ranks.rank
        failure, table = None, torch.zeros(self.ranks.world_size + 1, dtype=torch.int64)
        try:
            update = self.trainer.train(Job(client, number, number), self.plan.local(client, number))
            table[client] = update.samples
        except Exception as error:
            failure = error
            table[-1] = 1
        self.ranks.sum(table)
        if failure is not None:
            raise failure
        if int(table[-1]):
            raise RoundError("a client failed in this round; its rank says why")
        return update, table[:-1]

    def _average(self, number: int, update: Update, weight: float) -> tuple[Tensor, Traffic]:
        """The hook's average of all updates, in the model's order, fp32 [n], and the bytes that took."""
        buffer = self._reversed(update.values.mul_(weight), self.state.layout, self._layout)
        bucket = FlatBucket(buffer.to(self.ranks.wire_device), self._parameters)
        if self.codec is not None:
            self.codec.traffic = traffic = Traffic()
            result = self._hook(self._hook_state, bucket).wait()
        else:
            with count_collectives() as traffic, seeded(self.encoder.seed, "hook", number):
                result = self._hook(self._hook_state, bucket).wait()
            if self.ranks.world_size > 1 and not traffic.sent_bytes and not traffic.received_bytes:
                raise RoundError("the hook made no collective call whose bytes can be counted")
        result = result[0] if isinstance(result, list) else result
        return self._reversed(result.to(self.ranks.device).float(), self._layout, self.state.layout), traffic

    @staticmethod
    def _reversed(flat: Tensor, source: Layout, target: Layout) -> Tensor:
        return target.gather(reversed(source.views(flat)), torch.empty_like(flat))

    def commit(self) -> None:
        """The residuals that the codec's hook has made are the clients' own."""
        assert self.codec is not None
        self.codec.sender.keep()

    def rollback(self) -> None:
        """The codec's hook forgets the failed round."""
        assert self.codec is not None
        self.codec.sender.forget()

    def attach_states(self, states: ClientStates) -> bool:
        """A rank has one client, whose state stays."""
        return False

    @property
    def has_client_state(self) -> bool:
        return self.codec is not None and self.codec.sender.has_state

    def client_state(self, client: int) -> dict[str, Any]:
        """What the hook remembers, by parameter name; nothing for a foreign hook."""
        return {} if self.codec is None else self.codec.state_dict()

    def load_client_state(self, client: int, state: Any) -> None:
        if self.codec is not None:
            self.codec.load_state_dict({name: tensor.to(self.ranks.device) for name, tensor in state.items()})
