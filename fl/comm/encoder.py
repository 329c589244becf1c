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
    """The uplink of the clients that this rank hosts.

    `fractions`: of the uplink's coordinates, by client.
    """

    def __init__(self, uplink: CodecSchedule, feedback: str, fractions: Fractions, layout: Layout, seed: int) -> None:
        self.uplink = uplink
        self.feedback = feedback
        self.fractions = fractions
        self.layout = layout
        self.seed = seed

    def codec(self, job: Job) -> Codec:
        """The codec that encodes the update of a job, and decodes it."""
        codec, fraction = self.uplink.at(job.version), self.fractions[job.client]
        if codec.density is not None and fraction != 1:
            codec = codec.with_density(codec.density * fraction)
        return job.submodel.codec(codec)

    def encode(
        self, job: Job, update: Update, sections: Mapping[str, Tensor], residual_mask: Tensor | None
    ) -> tuple[Message, Sparse, dict[str, Tensor]]:
        """The message with an update and further `sections`; the update as the server will decode it; and what the client
        keeps of it if it arrives (`Sender.state_dict`), to be in the state of its next job as `sender`. `update.values` is
        overwritten.

        `residual_mask`, bool [n]: the coordinates whose residual still counts; None: all.
        """
        sender = Sender(self.uplink.codec, self.feedback)
        like = update.values
        kept = {name: tensor.to(like.device, like.dtype) for name, tensor in job.state.get("sender", {}).items()}
        sender.load_state_dict(kept)
        sender.codec = self.codec(job)
        key = derive_seed(self.seed, "uplink", job.number, job.client)
        payload, decoded = sender.encode(like, self.layout, key, within=residual_mask)
        sender.keep()
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
        return Message(report, sections), decoded, sender.state_dict()

    @property
    def keeps(self) -> bool:
        """Whether clients keep anything between rounds: residuals and velocities, or what a codec starts from."""
        return self.kept_vectors > 0 or self.uplink.codec.warm

    @property
    def kept_vectors(self) -> int:
        """How many vectors as large as the model a client keeps between rounds."""
        return {"none": 0, "residual": 1, "dgc": 2}[Sender(self.uplink.codec, self.feedback).feedback]
