"""Nothing gets lost in error feedback, whatever the sizes and values. Oracle: the invariant decoded + new residual ==
update + old residual, bit for bit where values are exact; where they are rounded, residual == total - decoded."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import Layout, NonFiniteError, Sender, make_codec
from compression.draws import derive_key
from tests.compression.cases import FEW, PLAIN, bits, encodable, layers, vectors

pytestmark = pytest.mark.slow

every_spec = pytest.mark.parametrize("spec", [spec for spec in PLAIN if spec != "fp32"])
SIZES = (0, 1, 2, 17, 31, 64, 129)


def residual(sender: Sender, layout: Layout) -> Tensor:
    state = sender.state_dict()
    return torch.cat([state[f"residual.{name}"].flatten() for name in layout.names])


@every_spec
@FEW
@given(seeds=st.lists(st.integers(0, 10**6), min_size=5, max_size=5), n=st.sampled_from(SIZES))
def test_five_rounds(spec: str, seeds: list[int], n: int) -> None:
    """Updates over 36 orders of magnitude."""
    layout, sender, old = layers(n), Sender(make_codec(spec)), torch.zeros(n)
    exact = "+" not in spec and spec.startswith(("topk", "prune", "threshold", "randk", "cost"))
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        update = torch.randn(n, generator=generator) * 10.0 ** torch.randint(-30, 6, (n,), generator=generator)
        total = update + old
        payload, decoded = sender.encode(update.clone(), layout, derive_key(seed))
        if old.any():
            assert bits(residual(sender, layout)) == bits(old), "encoding alone changes nothing"
        sender.keep()
        new, dense = residual(sender, layout), sender.codec.decode(payload, n, layout).dense()
        assert torch.equal(dense, decoded.dense())
        assert torch.equal(new, total - dense)
        if exact:
            assert torch.equal(dense + new, total)
            assert decoded.indices is not None
            assert not new[decoded.indices].any()
        old = new


@every_spec
@FEW
@given(x=vectors())
def test_awkward_values(spec: str, x: Tensor) -> None:
    """Denormals, saturation, ties: the residual is total - decoded and finite."""
    x = encodable(spec, x)
    layout, sender = layers(x.numel()), Sender(make_codec(spec))
    _, decoded = sender.encode(x.clone(), layout)
    sender.keep()
    assert torch.equal(residual(sender, layout), x - decoded.dense())
    assert bool(torch.isfinite(residual(sender, layout)).all())


@every_spec
def test_an_overflowing_total_leaves_the_residual_as_it_was(spec: str) -> None:
    """update + residual is infinite: refused, and the residual is unchanged."""
    layout, sender = layers(40), Sender(make_codec(spec))
    big = torch.full((40,), 3e38)
    sender.load_state_dict({f"residual.{n}": v.clone() for n, v in zip(layout.names, layout.views(big), strict=True)})
    with pytest.raises(NonFiniteError):
        sender.encode(big.clone(), layout)
    sender.keep()
    assert bits(residual(sender, layout)) == bits(big)
