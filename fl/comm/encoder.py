"""The uplink of a rank's clients: the codec of every job, and error feedback."""

from collections.abc import Mapping

from torch import Tensor

from compression import Codec, Layout, Sender, make_codec
from compression.wire import Sparse
from fl.clock.adaptive import Fractions
from fl.common.seeds import derive_seed
from fl.models.update import Job, Update

from .message import ClientReport, Message, encode_buffers
from .warmup import FIRST, check_warmup


class CodecSchedule:
    """The codec of `spec`; with `warmup` rounds its kept fraction falls from a quarter to its own, by equal factors.

    Ratio warm-up of Lin et al. 2018, section 3.3, where it takes four epochs. SpecError if `spec` keeps no fraction that
    could fall.
    """

    def __init__(self, spec: str, warmup: int = 0) -> None:
        self.codec = make_codec(spec)
        self.warmup = warmup
        check_warmup(warmup, self.codec)

    def at(self, round_: int) -> Codec:
        """The codec of a round."""
        density = self.codec.density
        if round_ >= self.warmup or density is None:
            return self.codec
        return self.codec.with_density(FIRST * (density / FIRST) ** (round_ / self.warmup))


class Encoder:
    """The uplink of the clients that this rank hosts: one `Sender` each.

    `fractions`: of the uplink's coordinates, by client. A client's residual is the new one when the round commits; `keep`
    makes it so earlier, for a client that may start again in the same round.
    """

    def __init__(self, uplink: CodecSchedule, feedback: str, fractions: Fractions, layout: Layout, seed: int) -> None:
        self.uplink = uplink
        self.feedback = feedback
        self.fractions = fractions
        self.layout = layout
        self.seed = seed
        self.senders: dict[int, Sender] = {}
        self._before: dict[int, object] = {}  # of the senders that this round has changed

    def codec(self, job: Job) -> Codec:
        """The codec that encodes the update of a job, and decodes it."""
        codec, fraction = self.uplink.at(job.version), self.fractions[job.client]
        if codec.density is not None and fraction != 1:
            codec = codec.with_density(codec.density * fraction)
        return job.submodel.codec(codec)

    def encode(
        self, job: Job, update: Update, sections: Mapping[str, Tensor], residual_mask: Tensor | None
    ) -> tuple[Message, Sparse]:
        """The message with an update and further `sections`, and the update as the server will decode it. `update.values`
        is overwritten.

        `residual_mask`, bool [n]: the coordinates whose residual still counts; None: all.
        """
        sender = self.sender(job.client)
        self._before.setdefault(job.client, sender.snapshot())
        sender.codec = self.codec(job)
        key = derive_seed(self.seed, "uplink", job.number, job.client)
        payload, decoded = sender.encode(update.values, self.layout, key, within=residual_mask)
        sender.codec = self.uplink.codec  # not that of a mask, which would be kept alive
        sections = {**sections, "update": payload, **encode_buffers(update.buffers)}
        report = ClientReport(
            client=job.client,
            samples=update.samples,
            train_loss=update.train_loss,
            train_s=update.train_s,
            kept=decoded.kept,
            sizes={name: section.numel() for name, section in sections.items()},
            moved=update.moved,
            halved=update.halved,
        )
        return Message(report, sections), decoded

    def sender(self, client: int) -> Sender:
        """The sender of a client, made when it is first asked for."""
        if client not in self.senders:
            self.senders[client] = Sender(self.uplink.codec, self.feedback)
        return self.senders[client]

    def keep(self) -> None:
        """What was encoded so far has been sent."""
        for client in self._before:
            self.senders[client].keep()

    def forget(self, client: int) -> None:
        """The update that `client` has encoded since `keep` does not arrive."""
        if client in self.senders:
            self.senders[client].forget()

    def commit(self) -> None:
        """The round has succeeded."""
        self.keep()
        self._before = {}

    def rollback(self) -> None:
        """The round has failed: every sender is as it was before."""
        for client, before in self._before.items():
            self.senders[client].restore(before)
        self._before = {}

    @property
    def has_client_state(self) -> bool:
        """Whether clients keep anything between rounds."""
        return Sender(self.uplink.codec, self.feedback).has_state
