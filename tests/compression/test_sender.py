"""Error feedback of one sender.

Oracles: the invariant decoded + new residual == update + old residual, bit for bit where values are exact; the formulas
of Lin et al. 2018, section 3.2, in NumPy.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compression import Layout, NonFiniteError, Sender, SpecError, make_codec
from compression.draws import derive_key

LAYOUT = Layout(("conv.weight", "fc.weight", "fc.bias"), ((4, 3, 3, 3), (10, 12), (10,)))
EXACT = (
    "topk:0.1",
    "topk:0.1,chunk=32",
    "topk:0.1,scope=layer",
    "prune:0.9",
    "threshold:1.5",
    "randk:0.1",
    "cost:0.1,linear=3",
)
ROUNDED = ("topk:0.1+bf16", "topk:0.1+int8", "topk:0.1+int4+zstd", "topk:0.2+log3", "prune:0.8+log4+zstd",
           "topk:0.1+sign", "qsgd:4", "int8", "sign", "randk:0.1+int8", "powersgd:2", "powersgd:1+bf16+zstd",
           "dct:16+topk:0.2+log2", "dct:64+int8")  # fmt: skip


def update(round_: int, client: int = 0) -> Tensor:
    return torch.randn(LAYOUT.total, generator=torch.Generator().manual_seed(100 * round_ + client))


def flat(sender: Sender, kind: str = "residual") -> Tensor:
    state = sender.state_dict()
    return torch.cat([state[f"{kind}.{name}"].flatten() for name in LAYOUT.names])


@pytest.mark.parametrize("spec", EXACT)
def test_exact_values_conserve_over_five_rounds_with_partial_participation(spec: str) -> None:
    """Three clients of which one sits out of each round; what it holds is untouched meanwhile."""
    senders = [Sender(make_codec(spec)) for _ in range(3)]
    residuals = [torch.zeros(LAYOUT.total) for _ in senders]
    for round_ in range(5):
        for client, sender in enumerate(senders):
            if client == round_ % 3:
                continue
            x = update(round_, client)
            payload, decoded = sender.encode(x.clone(), LAYOUT, derive_key(round_, client))
            assert torch.equal(sender.codec.decode(payload, LAYOUT.total, LAYOUT).dense(), decoded.dense())
            sender.keep()
            new = flat(sender)
            assert torch.equal(decoded.dense() + new, x + residuals[client])
            assert not ((decoded.dense() != 0) & (new != 0)).any(), "what was sent exactly leaves nothing"
            residuals[client] = new
        for client, sender in enumerate(senders):
            if round_ >= 2 or client != round_:
                assert torch.equal(flat(sender), residuals[client])


@pytest.mark.parametrize("spec", ROUNDED)
def test_a_rounded_value_leaves_its_error_behind(spec: str) -> None:
    """The new residual is (update + old residual) - decoded, computed in fp32, in every round."""
    sender, old = Sender(make_codec(spec)), torch.zeros(LAYOUT.total)
    for round_ in range(5):
        x = update(round_)
        payload, decoded = sender.encode(x.clone(), LAYOUT, derive_key(round_))
        sender.keep()
        assert torch.equal(sender.codec.decode(payload, LAYOUT.total, LAYOUT).dense(), decoded.dense())
        old = (x + old) - decoded.dense()
        assert torch.equal(flat(sender), old)


def test_dgc_by_the_formulas_of_the_paper() -> None:
    """u <- 0.9 u + g; v <- v + u; the top of v is sent; sent coordinates are zero in u and v."""
    sender = Sender(make_codec("topk:0.1"), "dgc:0.9")
    u = v = np.zeros(LAYOUT.total, dtype=np.float32)
    for round_ in range(5):
        x = update(round_)
        _, decoded = sender.encode(x.clone(), LAYOUT)
        sender.keep()
        u = (x + torch.from_numpy(u) * 0.9).numpy()
        v = v + u
        top = np.argsort(-np.abs(v), kind="stable")[: round(0.1 * len(v))]
        sent = np.zeros_like(v)
        sent[top] = v[top]
        np.testing.assert_allclose(decoded.dense().numpy(), sent, rtol=1e-6, atol=1e-6)
        u[top] = 0
        v[top] = 0
        np.testing.assert_allclose(flat(sender).numpy(), v, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(flat(sender, "velocity").numpy(), u, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "feedback"),
    [("topk:0.1", "residual"), ("topk:0.1", "dgc:0.9"), ("randk:0.2+int4", "dgc:0.9"), ("powersgd:2", "residual")],
)
def test_a_message_that_did_not_arrive_changes_nothing(spec: str, feedback: str) -> None:
    """After `forget` the same update with the same key gives the same payload and memory as if it were the first time."""
    sender, other = (Sender(make_codec(spec), feedback) for _ in range(2))
    for one in (sender, other):
        one.encode(update(0), LAYOUT, 1)
        one.keep()
    sender.encode(update(7), LAYOUT, 2)
    sender.forget()
    assert torch.equal(sender.encode(update(1), LAYOUT, 3)[0], other.encode(update(1), LAYOUT, 3)[0])
    for one in (sender, other):
        one.keep()
    ours, theirs = sender.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("spec", "feedback"), [("topk:0.1", "dgc:0.5"), ("powersgd:2", "residual"), ("int4", "residual")]
)
def test_state_by_parameter_name_continues_to_the_bit(spec: str, feedback: str) -> None:
    """Saved, and loaded into a new sender, it makes the same next payload."""
    one, other = Sender(make_codec(spec), feedback), Sender(make_codec(spec), feedback)
    one.encode(update(0), LAYOUT, 1)
    one.keep()
    assert all(name.split(".", 1)[1] in LAYOUT.names for name in one.state_dict())
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.encode(update(1), LAYOUT, 2)[0], other.encode(update(1), LAYOUT, 2)[0])


@pytest.mark.parametrize("feedback", ["residual", "dgc:0.5"])
def test_what_is_outside_a_mask_is_forgotten(feedback: str) -> None:
    """`within`: where it is False, residual and velocity begin anew with this update; where it is True, they go on."""
    sender, other = (Sender(make_codec("threshold:1000"), feedback) for _ in range(2))
    within = torch.arange(LAYOUT.total) % 3 > 0
    for round_ in range(2):
        sender.encode(update(round_), LAYOUT, within=within if round_ else None)
        other.encode(update(round_), LAYOUT)
        sender.keep()
        other.keep()
    for kind in ("residual", "velocity") if feedback != "residual" else ("residual",):
        assert torch.equal(flat(sender, kind), torch.where(within, flat(other, kind), update(1)))
        assert (flat(other, kind) != update(1))[~within].any()


def test_not_finite_is_refused_and_forgotten() -> None:
    """NaN, or a sum that overflows; the residual of earlier rounds stays."""
    sender = Sender(make_codec("topk:0.01"))
    sender.encode(torch.full((LAYOUT.total,), 3e38), LAYOUT)
    sender.keep()
    before = flat(sender)
    for bad in (torch.full((LAYOUT.total,), 3e38), torch.full((LAYOUT.total,), float("nan"))):
        with pytest.raises(NonFiniteError):
            sender.encode(bad, LAYOUT)
    sender.keep()
    assert torch.equal(flat(sender), before)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([*EXACT, *ROUNDED]), st.sampled_from([0.0, 1e-40, 1.0, 1e30]), st.booleans())
def test_awkward_updates(spec: str, scale: float, equal: bool) -> None:
    """All zero, denormal, large, all equal: always finite, and the residual is what was not decoded."""
    x = torch.full((LAYOUT.total,), scale) if equal else update(3).clamp(-3, 3) * scale
    sender = Sender(make_codec(spec))
    payload, decoded = sender.encode(x.clone(), LAYOUT, 5)
    sender.keep()
    assert torch.equal(sender.codec.decode(payload, LAYOUT.total, LAYOUT).dense(), decoded.dense())
    assert torch.equal(flat(sender), x - decoded.dense())
    assert flat(sender).isfinite().all()


def test_a_lossless_codec_needs_no_feedback() -> None:
    """Nothing is kept."""
    sender = Sender(make_codec("none"))
    assert sender.feedback == "none"
    assert torch.equal(sender.encode(update(0), LAYOUT)[1].values, update(0))
    sender.keep()
    assert sender.state_dict() == {}


@pytest.mark.parametrize("spec", ["none", "int8", "powersgd:2"])
def test_momentum_correction_needs_coordinates_that_wait(spec: str) -> None:
    """With a codec that sends all of them it would change nothing."""
    with pytest.raises(SpecError, match="leaves none out"):
        Sender(make_codec(spec), "dgc:0.9")


def test_what_is_no_vector_or_no_state_is_refused() -> None:
    """Wrong length, type and shape at once, not at the next message; state of something else."""
    sender = Sender(make_codec("topk:0.1"))
    for bad in (torch.zeros(5), torch.zeros(LAYOUT.total, dtype=torch.float64), torch.zeros(1, LAYOUT.total)):
        with pytest.raises(ValueError, match="fp32 vector"):
            sender.encode(bad, LAYOUT)
    with pytest.raises(ValueError, match="no state of a sender"):
        sender.load_state_dict({"weight": torch.zeros(3)})


@pytest.mark.parametrize("text", ["dgc", "dgc:1", "dgc:x", "residual:2", "rezidual", ""])
def test_wrong_feedback_is_refused(text: str) -> None:
    """With what would be right."""
    with pytest.raises(SpecError):
        Sender(make_codec("topk:0.1"), text)
