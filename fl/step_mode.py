"""`--mode step`: ordinary DistributedDataParallel whose gradients go through a codec hook at every step."""

import time

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, codec_hook, make_codec

from .data.batches import count_steps, iterate_batches
from .engine.optimizer import make_optimizer
from .engine.precision import autocast_dtype
from .exchange import ClientReport, RoundOutcome
from .federation import Federation
from .schedule import learning_rate
from .seeds import derive_seed

_ONE_BUCKET_MB = 1 << 20


class StepMode:
    """Every rank is one client with its own data; all hold the same weights and the same optimizer state.

    A round is as many steps as the largest client needs for its local epochs; smaller clients pass over their data
    again. BatchNorm's statistics are each rank's own during a round and are averaged, and counted, at its end. A codec that
    compares coordinates over the whole model gets one DDP bucket, the others DDP's own buckets.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        config, ranks = federation.config, federation.ranks
        model = federation.engine.model
        codec = make_codec(config.uplink)
        whole = codec.selector is not None and not codec.selector.per_layer
        self._module = model
        self._ddp = DistributedDataParallel(
            model,
            device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None,
            broadcast_buffers=False,
            bucket_cap_mb=_ONE_BUCKET_MB if whole else None,
        )
        self.hook = CodecHook(config.uplink, model.named_parameters(), error_feedback=config.error_feedback)
        self._ddp.register_comm_hook(self.hook, codec_hook)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(config, self._parameters, config.lr)
        self._dtype = autocast_dtype(federation.engine.precision)
        self._steps = config.local_steps or max(
            count_steps(len(part), config.batch_size, config.local_epochs, None) for part in federation.parts
        )

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `fl.rounds.Rounds.run`; the cohort is every rank."""
        federation, ranks = self.federation, self.federation.ranks
        state, client = federation.state, ranks.rank
        traffic, started = self.hook.traffic, time.perf_counter()
        before = (traffic.sent_bytes, traffic.received_bytes, traffic.kept, traffic.coordinates)
        state.load_into(self._module)
        loss = self._train(round_, client)
        update, buffers = state.subtract_local(self._module)
        # Global - (global - local) need not be local to the bit: take over what DDP left on every rank.
        state.read_parameters(self._module)
        buffers_bytes = self._average_buffers(buffers)
        seconds = time.perf_counter() - started
        sent = traffic.sent_bytes - before[0] + buffers_bytes
        received = traffic.received_bytes - before[1] + buffers_bytes
        kept = round((traffic.kept - before[2]) / max(1, traffic.coordinates - before[3]) * state.layout.total)
        report = ClientReport(client, len(federation.parts[client]), loss, seconds, sent, kept)
        table = torch.zeros(ranks.world_size, len(report.row()) + 1, dtype=torch.float64)
        table[client] = torch.tensor([*report.row(), received], dtype=torch.float64)
        norm = float(torch.linalg.vector_norm(update))
        outcome = RoundOutcome(update_norm=norm, exchanges=self._steps)
        for other, row in enumerate(ranks.sum(table).tolist()):
            outcome.reports.append(ClientReport.of_row(other, row[:-1]))
            outcome.received_bytes[other] = int(row[-1])
        return outcome

    def _train(self, round_: int, client: int) -> float:
        federation, config = self.federation, self.federation.config
        device = federation.ranks.device
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(config, round_)
        self._ddp.train()
        losses = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(config.seed, "dropout", round_, client))
            for x, y in iterate_batches(
                federation.train,
                federation.parts[client],
                batch_size=config.batch_size,
                steps=self._steps,
                seed=derive_seed(config.seed, "batches", round_, client),
                augment=federation.augment,
                normalise=federation.normalise,
                device=device,
                memory_format=federation.engine.memory_format,
            ):
                self._optimizer.zero_grad()
                with torch.autocast(device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
                    loss = functional.cross_entropy(self._ddp(x), y)
                loss.backward()
                if config.clip_norm:
                    torch.nn.utils.clip_grad_norm_(self._parameters, config.clip_norm)
                self._optimizer.step()
                losses.append(loss.detach())
        return torch.stack(losses).double().mean().item()

    def _average_buffers(self, buffers: Tensor) -> int:
        """Average the BatchNorm statistics over the ranks into the global model; returns the bytes, each way."""
        ranks, state = self.federation.ranks, self.federation.state
        if not buffers.numel():
            return 0
        total = buffers.to(ranks.wire_device)
        dist.all_reduce(total)
        state.buffers.copy_(total.div_(ranks.world_size))
        return total.numel() * total.element_size()

    @property
    def has_client_state(self) -> bool:
        """As in `fl.rounds.Rounds.has_client_state`."""
        return self.hook.error_feedback

    def client_state(self, client: int) -> dict[str, Tensor]:
        """As in `fl.rounds.Rounds.client_state`: the residuals by parameter name."""
        return self.hook.state_dict()

    def load_client_state(self, client: int, state: dict[str, Tensor]) -> None:
        """As in `fl.rounds.Rounds.load_client_state`."""
        device = self.federation.ranks.device
        self.hook.load_state_dict({name: tensor.to(device) for name, tensor in state.items()})

    def server_state(self) -> dict[str, Tensor]:
        """As in `fl.rounds.Rounds.server_state`; the optimizer's state is the same on every rank."""
        named = {"parameters": self.federation.state.parameters, "buffers": self.federation.state.buffers}
        for position, state in self._optimizer.state_dict()["state"].items():
            for key, value in state.items():
                named[f"optimizer.{position}.{key}"] = torch.as_tensor(value)
        return named

    def load_server_state(self, state: dict[str, Tensor]) -> None:
        """As in `fl.rounds.Rounds.load_server_state`."""
        self.federation.state.parameters.copy_(state.pop("parameters"))
        self.federation.state.buffers.copy_(state.pop("buffers"))
        whole = self._optimizer.state_dict()
        for name, value in state.items():
            _, position, key = name.split(".", 2)
            whole["state"].setdefault(int(position), {})[key] = value
        self._optimizer.load_state_dict(whole)
