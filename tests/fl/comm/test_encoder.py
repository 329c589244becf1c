"""What a client sends. Oracles: the codec's own decoder, formulas by hand, and encoders that were asked for less."""

import pytest
import torch
from torch import Tensor

from compression import Layout, Sender, SpecError, make_codec
from compression.masks.inside import MaskedLayout
from fl.clock.adaptive import Fractions
from fl.comm.encoder import CodecSchedule, Encoder
from fl.common.seeds import derive_seed
from fl.models.submodel import WHOLE, Submodel
from fl.models.update import Job, Update

_LAYOUT = Layout(("w", "b"), ((30, 3), (10,)))
_N = 100


def _make(spec: str = "topk:0.1", feedback: str = "residual", fractions: Fractions | None = None) -> Encoder:
    return Encoder(CodecSchedule(spec), feedback, fractions or Fractions(), _LAYOUT, seed=3)


def _update(client: int, seed: int, buffers: int = 0) -> Update:
    values = torch.randn(_N, generator=torch.Generator().manual_seed(seed))
    return Update(client, values, torch.arange(float(buffers)), 10 + client, 0.5, 0.25)


def test_the_kept_fraction_falls_by_equal_factors() -> None:
    """From 1/4 to 0.01 in four rounds: each time by (0.04)^(1/4); then it stays."""
    schedule = CodecSchedule("topk:0.01", warmup=4)
    densities = [schedule.at(round_).density for round_ in range(6)]
    assert densities == pytest.approx([0.25, 0.25 * 0.04**0.25, 0.05, 0.25 * 0.04**0.75, 0.01, 0.01])
    assert schedule.at(4) is schedule.codec
    assert CodecSchedule("topk:0.01").at(0).density == 0.01


@pytest.mark.parametrize("spec", ["none", "int8", "topk:0.25", "topk:0.5"])
def test_nothing_to_fall(spec: str) -> None:
    """Codecs without a kept fraction, or with one of a quarter and more; without warm-up they are as good as any."""
    with pytest.raises(SpecError, match=f"'{spec}' has no kept fraction"):
        CodecSchedule(spec, warmup=3)
    assert CodecSchedule(spec).at(0).spec == CodecSchedule(spec).codec.spec


def test_the_codec_is_that_of_the_version_and_the_client() -> None:
    """A client with half of the uplink keeps half as much; what seeds a job does not matter, its version does."""
    encoder = _make(fractions=Fractions([1.0, 0.5], "uplink_share"))
    encoder.uplink = CodecSchedule("topk:0.1", warmup=2)
    assert [encoder.codec(Job(client, 9, 0)).density for client in (0, 1)] == [0.25, 0.125]
    assert [encoder.codec(Job(client, 0, 2)).density for client in (0, 1)] == [0.1, 0.05]
    exact = _make("none", fractions=Fractions([0.5], "uplink_share"))
    assert exact.codec(Job(0, 0, 0)) is exact.uplink.codec


@pytest.mark.parametrize("spec", ["none", "topk:0.1", "topk:0.2+log3+zstd", "int8"])
def test_a_message_says_what_the_server_decodes(spec: str) -> None:
    """The payload decodes to what the client takes for sent, within its submodel; sections and report have their sizes."""
    encoder = _make(spec)
    mask = torch.arange(_N) % 3 == 0
    for client, submodel in ((0, WHOLE), (1, Submodel(MaskedLayout(mask, _LAYOUT)))):
        job, update, told = Job(client, 4, 4, submodel), _update(client, client, buffers=2), torch.ones(7).byte()
        if submodel.inside is not None:
            update.values.mul_(mask)
        message, decoded, _ = encoder.encode(job, update, {"mask": told}, None)
        taken = encoder.codec(job).decode(message.sections["update"], _N, _LAYOUT)
        assert taken.dense().equal(decoded.dense())
        assert taken.dense()[~mask].count_nonzero() == 0 or submodel is WHOLE
        assert message.sections["mask"].equal(told)
        report = message.report
        assert (report.client, report.samples, report.train_loss, report.train_s) == (client, 10 + client, 0.5, 0.25)
        assert report.kept == decoded.kept
        assert report.sizes == {name: section.numel() for name, section in message.sections.items()}
        assert set(report.sizes) == {"mask", "update", "buffers"}


@pytest.mark.parametrize("feedback", ["residual", "dgc:0.5"])
def test_what_a_client_keeps_is_in_its_next_update(feedback: str) -> None:
    """Oracle: a sender that lives on. Its state is only read; bf16 is taken as fp32."""
    encoder, sender = _make(feedback=feedback), Sender(make_codec("topk:0.1"), feedback)
    state: dict[str, Tensor] = {}
    for number in range(4):
        before = {name: tensor.clone() for name, tensor in state.items()}
        job, update = Job(0, number, number, state={"sender": state}), _update(0, number)
        payload, _ = sender.encode(update.values.clone(), _LAYOUT, derive_seed(3, "uplink", number, 0))
        sender.keep()
        message, _, kept = encoder.encode(job, update, {}, None)
        assert message.sections["update"].equal(payload)
        assert all(tensor.equal(before[name]) for name, tensor in state.items())
        assert kept.keys() == sender.state_dict().keys()
        assert all(tensor.equal(kept[name]) for name, tensor in sender.state_dict().items())
        state = {name: tensor.bfloat16() for name, tensor in kept.items()}
        sender.load_state_dict({name: tensor.float() for name, tensor in state.items()})


@pytest.mark.parametrize(
    ("spec", "feedback", "expected"),
    [
        ("none", "residual", 0),
        ("topk:0.1", "none", 0),
        ("topk:0.1", "residual", 1),
        ("topk:0.1", "dgc:0.9", 2),
        ("powersgd:1", "none", 0),
    ],
)
def test_how_many_vectors_clients_keep(spec: str, feedback: str, expected: int) -> None:
    """What a codec drops, and a velocity; the factors that PowerSGD begins with are far smaller than the model."""
    assert _make(spec, feedback).kept_vectors == expected
