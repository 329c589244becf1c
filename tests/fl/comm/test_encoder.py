"""What a client sends. Oracles: the codec's own decoder, formulas by hand, and encoders that were asked for less."""

from typing import Any

import pytest
import torch
from torch import Tensor

from compression import Layout, SpecError
from compression.masks.inside import MaskedLayout
from fl.clock.adaptive import Fractions
from fl.comm.encoder import CodecSchedule, Encoder
from fl.comm.message import Message
from fl.models.submodel import WHOLE, Submodel
from fl.models.update import Job, Update

_LAYOUT = Layout(("w", "b"), ((30, 3), (10,)))
_N = 100


def _make(spec: str = "topk:0.1", feedback: str = "residual", fractions: Fractions | None = None) -> Encoder:
    return Encoder(CodecSchedule(spec), feedback, fractions or Fractions(), _LAYOUT, seed=3)


def _update(client: int, seed: int, buffers: int = 0) -> Update:
    values = torch.randn(_N, generator=torch.Generator().manual_seed(seed))
    return Update(client, values, torch.arange(float(buffers)), 10 + client, 0.5, 0.25)


def _encode(encoder: Encoder, client: int, seed: int, submodel: Submodel = WHOLE) -> Message:
    return encoder.encode(Job(client, seed, seed, submodel), _update(client, seed), {}, None)[0]


def _memory(encoder: Encoder) -> dict[Any, Tensor]:
    return {
        (client, name): tensor
        for client in range(3)
        for name, tensor in encoder.sender(client).state_dict().items()
        if tensor.any()
    }


def _same(left: Encoder, right: Encoder) -> None:
    one, other = _memory(left), _memory(right)
    assert one.keys() == other.keys()
    assert all(one[key].equal(other[key]) for key in one)


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
        message, decoded = encoder.encode(job, update, {"mask": told}, None)
        taken = encoder.codec(job).decode(message.sections["update"], _N, _LAYOUT)
        assert taken.dense().equal(decoded.dense())
        assert taken.dense()[~mask].count_nonzero() == 0 or submodel is WHOLE
        assert message.sections["mask"].equal(told)
        report = message.report
        assert (report.client, report.samples, report.train_loss, report.train_s) == (client, 10 + client, 0.5, 0.25)
        assert report.kept == decoded.kept
        assert report.sizes == {name: section.numel() for name, section in message.sections.items()}
        assert set(report.sizes) == {"mask", "update", "buffers"}
        assert encoder.sender(client).codec is encoder.uplink.codec, "no mask is kept alive"


@pytest.mark.parametrize("feedback", ["residual", "dgc:0.5"])
def test_what_a_failed_round_encoded_is_forgotten(feedback: str) -> None:
    """Also where it counted already, because its client might start again: as an encoder that was never asked."""
    encoder, untouched = _make(feedback=feedback), _make(feedback=feedback)
    for each in (encoder, untouched):
        _encode(each, 0, 1)
        _encode(each, 1, 2)
        each.commit()
    _encode(encoder, 0, 3)
    encoder.keep()
    _encode(encoder, 0, 4)
    _encode(encoder, 2, 5)
    assert not _memory(encoder)[0, "residual.w"].equal(_memory(untouched)[0, "residual.w"])
    encoder.rollback()
    _same(encoder, untouched)
    encoder.rollback()  # of a round in which nobody trained
    _same(encoder, untouched)
    one, other = (_encode(each, 0, 6) for each in (encoder, untouched))
    assert one.sections["update"].equal(other.sections["update"])


def test_what_does_not_arrive_stays_with_its_client() -> None:
    """`forget` for one of two: it has what it had, the other what it did not send; of somebody unknown it is nothing."""
    encoder, expected = _make(), _make()
    for each in (encoder, expected):
        _encode(each, 0, 1)
        _encode(each, 1, 2)
        each.commit()
        _encode(each, 1, 4)
    _encode(encoder, 0, 3)
    encoder.forget(0)
    encoder.forget(2)
    assert 2 not in encoder.senders
    for each in (encoder, expected):
        each.commit()
    _same(encoder, expected)


@pytest.mark.parametrize(
    ("spec", "feedback", "expected"),
    [
        ("none", "residual", False),
        ("topk:0.1", "none", False),
        ("topk:0.1", "residual", True),
        ("powersgd:1", "none", True),
    ],
)
def test_whether_clients_keep_anything(spec: str, feedback: str, expected: bool) -> None:
    """What a codec drops, or the factors that it begins with."""
    assert _make(spec, feedback).has_client_state is expected
