"""What one client can do to the aggregate of `--dp`. Oracle: the same round, with the same noise, without that client."""

import pytest
import torch
from torch import nn

from compression import Sender, make_codec
from compression.wire import Sparse
from fl.models.state import ModelState
from fl.server.private_mean import PrivateMean

from .test_privacy import make_privacy

N, EXPECTED, CLIP = 400, 4, 0.5


def _state() -> ModelState:
    torch.manual_seed(0)
    return ModelState(nn.Linear(N, 1, bias=False), torch.device("cpu"))


def _result(updates: list[Sparse], text: str = f"clip:{CLIP},noise=0.5,delta=1e-5") -> torch.Tensor:
    """The aggregate of a first round, float64 [n]."""
    mean = PrivateMean(_state(), make_privacy(text, clients=100, expected=EXPECTED))
    mean.reset()
    for at, update in enumerate(updates):
        mean.add(update, None, weight=10**at)
    return mean.result().update.double()


def _dense(values: torch.Tensor) -> Sparse:
    return Sparse(values.numel(), None, values)


def test_the_aggregate_is_that_of_the_formula() -> None:
    """Algorithm 1 of McMahan et al. 2018: updates scaled by min(1, C / norm), summed, with the noise, over the expected
    number of clients, whatever their samples and however many came."""
    torch.manual_seed(1)
    updates = [torch.randn(N) * scale for scale in (1e-3, 1.0, 1e6)]
    noise = make_privacy("clip:0.5,noise=0.5,delta=1e-5", clients=100, expected=EXPECTED).add_noise(torch.zeros(N))
    clipped = [update.double() * min(1.0, CLIP / float(update.double().norm())) for update in updates]
    for count in (0, 1, 3):
        expected = (torch.stack([noise.double(), *clipped[:count]]).sum(0)) / EXPECTED
        torch.testing.assert_close(_result([_dense(each) for each in updates[:count]]), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("codec", "feedback"),
    [
        *((codec, "none") for codec in ("none", "sign", "topk:0.1+qsgd:2", "powersgd:2")),
        *((codec, "residual") for codec in ("topk:0.05", "sign", "topk:0.1+qsgd:2", "powersgd:2")),
        *((codec, "dgc:0.9") for codec in ("topk:0.05", "topk:0.1+qsgd:2", "randk:0.1")),
    ],
)
def test_no_client_moves_it_by_more_than_the_norm(codec: str, feedback: str) -> None:
    """Ten rounds of a client whose codec and error feedback make more of its updates than they were: C / expected at most,
    and no less where the update is larger."""
    layout, codec_ = _state().layout, make_codec(codec)
    sender = Sender(codec_, feedback)
    torch.manual_seed(2)
    other, largest = _dense(torch.randn(N)), 0.0
    for round_ in range(10):
        payload, _ = sender.encode(torch.randn(N) * 10.0 ** (round_ - 3), layout, round_)
        decoded = codec_.decode(payload, N, layout)
        sender.keep()
        moved = float((_result([other, decoded]) - _result([other])).norm())
        assert moved <= CLIP / EXPECTED * (1 + 1e-5)
        largest = max(largest, moved)
    assert largest == pytest.approx(CLIP / EXPECTED, rel=1e-4)


def test_an_adaptive_norm_counts_what_was_within_it() -> None:
    """Two updates of three are; so the next norm is that of the formula with +1/2, whoever sends what beside it."""
    text = "clip:1,noise=0.5,delta=1e-5,adaptive=0.5"
    privacy, same = (make_privacy(text, clients=100, expected=EXPECTED) for _ in range(2))
    mean = PrivateMean(_state(), privacy)
    for _ in range(2):  # the second round counts anew
        mean.reset()
        for size in (0.0, 1e-3, 100.0):
            mean.add(_dense(torch.full((N,), size)), None, weight=1)
        mean.result()
        same.observe(0.5)
        privacy.commit()
        same.commit()
        assert privacy.norm == same.norm
