"""`dct:B`. Oracles: the cosine sum in NumPy, and that rotations keep lengths and are undone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression import Layout, NonFiniteError, PayloadError, Sender, SpecError, make_codec
from compression.dct import transform
from tests.compression.cases import EXAMPLES

SPECS = ("dct:8", "dct:64+topk:0.1,chunk=64", "dct:16+topk:0.2+log3+zstd", "dct:5+randk:0.3+int8", "dct:64+sign+zstd")


def _layout(n: int) -> Layout:
    return Layout(("a", "b"), ((n // 3,), (n - n // 3,)))


def _cosines(x: np.ndarray) -> np.ndarray:
    """The orthonormal DCT-II of one block by its definition (Ahmed, Natarajan and Rao 1974)."""
    n = len(x)
    places = np.arange(n)
    sums = [(x * np.cos(np.pi / n * (places + 0.5) * order)).sum() for order in range(n)]
    return np.array(sums) * np.sqrt(2 / n) * np.where(np.arange(n) == 0, np.sqrt(0.5), 1.0)


@EXAMPLES
@given(st.integers(0, 300), st.integers(2, 70), st.integers(0, 100))
def test_the_transform(n: int, block: int, seed: int) -> None:
    """Each block by the definition, the last one shorter; back is back, and lengths stay."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    found = transform(x, block)
    expected = [_cosines(x.double().numpy()[at : at + block]) for at in range(0, n, block)]
    assert np.allclose(found.numpy(), np.concatenate([*expected, np.empty(0)]), atol=1e-6)
    assert torch.allclose(transform(found, block, back=True), x, atol=1e-6)
    assert float(found.norm()) == pytest.approx(float(x.norm()), rel=1e-5)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("n", [0, 1, 5, 64, 1000])
def test_what_arrives(spec: str, n: int) -> None:
    """A receiver decodes what the sender was told, which is what the inner codec makes of the coefficients, turned back."""
    codec, x = make_codec(spec), torch.randn(n, generator=torch.Generator().manual_seed(n))
    payload, decoded = codec.encode(x.clone(), _layout(n), key=7)
    assert torch.equal(codec.decode(payload, n, _layout(n)).dense(), decoded.dense())
    head, _, inner = spec.partition("+")
    block = int(head.partition(":")[2])
    _, plain = make_codec(inner or "fp32").encode(transform(x, block), _layout(n), key=7)
    assert torch.equal(decoded.dense(), transform(plain.dense(), block, back=True))


def test_a_wave_is_one_number() -> None:
    """What top-k would need every coordinate for: a cosine of 256 coordinates comes back from one of its coefficients."""
    wave = torch.cos(torch.pi / 64 * (torch.arange(256) % 64 + 0.5) * 9)
    turned, plain = (make_codec(spec).encode(wave.clone())[1].dense() for spec in ("dct:64+topk:0.016", "topk:0.016"))
    assert float((turned - wave).norm()) < 1e-4
    assert float((plain - wave).norm()) > 0.9 * float(wave.norm())


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("spec", ["dct:16+topk:0.1,chunk=16+sign", "topk:0.1,chunk=32", "topk:0.1+log2"])
def test_error_feedback_with_decay(spec: str, decay: float) -> None:
    """SparseLoCo and DeMo: what goes into a message is update + decay x residual; what it leaves out is the next one."""
    layout, residual = _layout(500), torch.zeros(500)
    sender = Sender(make_codec(spec), f"residual:{decay}")
    for round_ in range(4):
        x = torch.randn(500, generator=torch.Generator().manual_seed(round_))
        _, decoded = sender.encode(x.clone(), layout)
        sender.keep()
        total = torch.add(x, residual, alpha=decay)
        assert torch.equal(decoded.dense(), make_codec(spec).encode(total.clone(), layout)[1].dense())
        residual = total - decoded.dense()
        state = sender.state_dict()
        assert torch.equal(torch.cat([state[f"residual.{name}"] for name in layout.names]), residual)


def test_payloads_of_another_kind_are_refused() -> None:
    """Coefficients are not coordinates: neither codec reads the other's payload; and impossible coefficients are refused."""
    x = torch.randn(128)
    ours, plain = make_codec("dct:64+topk:0.1"), make_codec("topk:0.1")
    for one, other in ((ours, plain), (plain, ours)):
        with pytest.raises(PayloadError):
            other.decode(one.encode(x.clone())[0], 128)
    with pytest.raises(NonFiniteError, match="too large for dct:64"):
        ours.encode(torch.full((128,), 3e38))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dct", "takes 1 argument"),
        ("dct:1+int8", "at least 2"),
        ("dct:5000+int8", "at most 4096"),
        ("topk:0.1+dct:64", "in this order"),
        ("dct:64+powersgd:2", "take one of them"),
        ("topk:0.1,chunk=1", "at least 2"),
        ("prune:0.9,chunk=64", "no option 'chunk'"),
    ],
)
def test_mistakes(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make_codec(spec)


@pytest.mark.parametrize("text", ["residual:2", "residual:x", "residual:0.5,0.5"])
def test_decays_that_are_none(text: str) -> None:
    with pytest.raises(SpecError):
        Sender(make_codec("topk:0.1"), text)
