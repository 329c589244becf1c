"""The exchange of a round through a DDP communication hook: one client per rank."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compression import CodecHook, FlatBucket, Layout, codec_hook
from compression.ddp.hooks import Traffic
from fl.comm.codecs import Uplink
from fl.comm.ddp_hooks import Hook, count_collectives, load_hook
from fl.comm.message import ClientReport
from fl.common.errors import RoundError
from fl.common.ranks import Ranks
from fl.common.seeds import seeded
from fl.models.state import ModelState
from fl.server.aggregate import Aggregate
from fl.server.server import Server
from fl.training.trainer import Update

from .exchange import Exchange
from .result import RoundOutcome


class HookExchange(Exchange):
    """Updates go once through a hook on a `FlatBucket`; the hook averages, rank 0 steps and broadcasts.

    The bucket holds the parameters in reverse order, as DDP's do. A hook averages without weights, so each update is
    scaled by ranks * samples / all samples beforehand. Bytes are counted at the collective calls.
    """

    def __init__(
        self,
        ranks: Ranks,
        state: ModelState,
        server: Server | None,
        model: nn.Module,
        *,
        uplink: Uplink,
        downlink: str = "none",
        error_feedback: str = "residual",
        seed: int = 0,
        hook: str | None = None,
    ) -> None:
        super().__init__(ranks, state, server, downlink, seed=seed)
        self.uplink = uplink
        named = dict(model.named_parameters())
        self._parameters = [named[name] for name in reversed(state.layout.names)]
        self._layout = Layout.of((name, named[name]) for name in reversed(state.layout.names))
        self.codec: CodecHook | None = None
        self._hook_state: Any
        self._hook: Hook
        if hook is None:
            self.codec = CodecHook(
                uplink.codec.spec, named.items(), error_feedback=error_feedback, seed=seed, keeps=False
            )
            self._hook_state, self._hook = self.codec, codec_hook
        else:
            self._hook_state, self._hook = load_hook(hook)

    def open(self, round_: int, cohort: Sequence[int]) -> None:
        """As in `Exchange.open`; the cohort is every rank."""
        self._round = round_
        self._update: Update | None = None
        if self.codec is not None:
            self.codec.calls = round_
            self.codec.sender.forget()
            self.codec.sender.codec = self.uplink.at(round_)

    def upload(self, update: Update) -> None:
        """As in `Exchange.upload`."""
        self._update = update

    def abort(self) -> None:
        """As in `Exchange.abort`."""
        self._tell_samples(failed=True)

    def step(self) -> RoundOutcome:
        """As in `Exchange.step`."""
        samples = self._tell_samples()
        update = self._update
        assert update is not None
        total = int(samples.sum())
        mean, traffic = self._average(update, update.samples * self.ranks.world_size / total)
        buffers = (update.buffers * (update.samples / total)).to(self.ranks.wire_device)
        buffers_bytes = 0
        if buffers.numel():
            dist.all_reduce(buffers)
            buffers_bytes = buffers.numel() * buffers.element_size()
        sent, received = traffic.sent_bytes + buffers_bytes, traffic.received_bytes + buffers_bytes
        kept = traffic.kept if self.codec is not None else update.values.numel()
        report = ClientReport(
            update.client, update.samples, update.train_loss, update.train_s, sent, kept, moved=update.moved
        )
        outcome = RoundOutcome(exchanges=1)
        outcome.gather(self.ranks, report, received)
        self.serve(self._round, lambda: Aggregate(mean, buffers.to(self.ranks.device), None), outcome)
        if self.codec is not None:
            self.codec.sender.keep()
        return outcome

    def _average(self, update: Update, weight: float) -> tuple[Tensor, Traffic]:
        """The hook's average of all updates, in the model's order, fp32 [n], and the bytes that took."""
        buffer = self._reversed(update.values.mul_(weight), self.state.layout, self._layout)
        bucket = FlatBucket(buffer.to(self.ranks.wire_device), self._parameters)
        if self.codec is not None:
            self.codec.traffic = traffic = Traffic()
            result = self._hook(self._hook_state, bucket).wait()
        else:
            with count_collectives() as traffic, seeded(self.seed, "hook", self._round):
                result = self._hook(self._hook_state, bucket).wait()
            if self.ranks.world_size > 1 and not traffic.sent_bytes and not traffic.received_bytes:
                raise RoundError("the hook made no collective call whose bytes can be counted")
        result = result[0] if isinstance(result, list) else result
        return self._reversed(result.to(self.ranks.device).float(), self._layout, self.state.layout), traffic

    @staticmethod
    def _reversed(flat: Tensor, source: Layout, target: Layout) -> Tensor:
        return target.gather(reversed(source.views(flat)), torch.empty_like(flat))

    def _tell_samples(self, *, failed: bool = False) -> Tensor:
        table = torch.zeros(self.ranks.world_size + 1, dtype=torch.int64)
        table[-1] = failed
        if self._update is not None:
            table[self.ranks.rank] = self._update.samples
        self.ranks.sum(table)
        if int(table[-1]):
            raise RoundError("a client failed in this round; its rank says why")
        return table[:-1]

    def client_state(self, client: int) -> dict[str, Tensor]:
        """As in `Exchange.client_state`: what the hook remembers, by parameter name; nothing for a foreign hook."""
        return self.codec.state_dict() if self.codec is not None else {}

    def load_client_state(self, client: int, state: dict[str, Tensor]) -> None:
        """As in `Exchange.load_client_state`."""
        if self.codec is not None:
            self.codec.load_state_dict({name: tensor.to(self.ranks.device) for name, tensor in state.items()})

    @property
    def has_client_state(self) -> bool:
        """As in `Exchange.has_client_state`."""
        return self.codec is not None and self.codec.sender.has_state
