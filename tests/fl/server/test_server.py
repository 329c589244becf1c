"""The server's mean and step, by hand-worked examples."""

import copy

import pytest
import torch
from torch import nn

from compression import NonFiniteError, PayloadError, Sparse, make_codec
from compression.masks.codec import MaskedCodec
from compression.masks.inside import MaskedLayout
from fl.comm.message import apply_change, decode_model, encode_buffers
from fl.common.config import ServerOptions
from fl.models.state import ModelState
from fl.models.submodel import Submodel
from fl.server.aggregate import Aggregate, Mean
from fl.server.optimizers import make_server_optimizer
from fl.server.server import Server

EXACT = make_codec("none")


def make(downlink: str = "none", feedback: bool = True, **options) -> Server:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2, affine=False))
    state = ModelState(model, torch.device("cpu"))
    return Server(
        state,
        lambda params: make_server_optimizer(ServerOptions(**options), params),
        make_codec(downlink),
        error_feedback=feedback,
        make_aggregator=lambda: Mean(state),
    )


def step(server: Server, mean: Aggregate, **options) -> dict[str, torch.Tensor]:
    """A round that succeeds: what the server publishes."""
    sections = {"change": server.step(mean, **options), **encode_buffers(mean.buffers)}
    server.commit()
    return sections


def flat(server: Server) -> dict[str, torch.Tensor]:
    """Copies of what the server remembers."""
    return {f"{kind}.{name}": value.clone() for kind, own in server.state_dict().items() for name, value in own.items()}


def mean_of(server: Server, *clients: tuple[list[float], float, int]) -> Aggregate:
    mean = Mean(server.state)
    for values, buffer, samples in clients:
        mean.add(Sparse(6, None, torch.tensor(values)), Sparse(4, None, torch.full((4,), buffer)), samples)
    return mean.result()


def test_mean_is_weighted_by_samples_and_absence_is_zero():
    """Weights 1 and 3: (1 * 4 + 3 * 8) / 4 = 7; a coordinate that only the first sends: 4 / 4 = 1."""
    server = make()
    mean = Mean(server.state)
    mean.add(Sparse(6, torch.tensor([0, 2]), torch.tensor([4.0, 4.0])), None, 1)
    mean.add(Sparse(6, torch.tensor([0]), torch.tensor([8.0])), None, 3)
    assert mean.result().update.tolist() == [7.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def test_fedavg_replaces_the_model_by_the_mean_of_the_clients_and_averages_buffers():
    """global - mean(global - local) = mean(local); buffers are (1 * 2 + 3 * 6) / 4 = 5."""
    server = make(server="fedavg")
    before = server.state.parameters.clone()
    mean = mean_of(server, ([1.0] * 6, 2.0, 1), ([2.0] * 6, 6.0, 3))
    sections = step(server, mean)
    apply_change(server.state, *decode_model(sections, "change", server.state, EXACT))
    torch.testing.assert_close(server.state.parameters, before - 1.75)
    assert server.state.buffers.tolist() == [5.0] * 4
    assert server.update_norm == pytest.approx(1.75 * 6**0.5)
    assert {name: section.numel() for name, section in sections.items()} == {"change": 24 + 24, "buffers": 24 + 16}


def test_downlink_error_is_sent_later_and_never_reaches_the_moments():
    """Top-1 of 6 coordinates a round: after any round, what everybody applied plus the residual is the sum of the exact
    steps, and the moments equal those of a server whose downlink is exact and whose model stays where it was."""
    lossy, exact = make("topk:0.16", server="fedadam"), make(server="fedadam")
    start = lossy.state.parameters.clone()
    steps = torch.zeros(6)
    for round_ in range(4):
        values = [float(i + round_) for i in range(6)]
        sections = step(lossy, mean_of(lossy, (values, 0.0, 1)))
        change, buffers = decode_model(sections, "change", lossy.state, make_codec("topk:0.16"))
        assert change.kept == 1
        apply_change(lossy.state, change, buffers)
        before = exact.state.parameters.clone()
        sections = step(exact, mean_of(exact, (values, 0.0, 1)))
        apply_change(exact.state, *decode_model(sections, "change", exact.state, EXACT))
        steps += exact.state.parameters - before
    residual = flat(lossy)["downlink.residual.0.weight"].flatten()
    torch.testing.assert_close(lossy.state.parameters - start + residual, steps)
    for name, moment in lossy.state_dict()["moments"].items():
        assert torch.equal(moment, exact.state_dict()["moments"][name]), name


def test_a_mean_that_is_not_finite_changes_nothing():
    """NaN in the update or in the buffers is refused before the moments are touched."""
    server = make(server="fedyogi")
    step(server, mean_of(server, ([1.0] * 6, 0.0, 1)))
    before = flat(server)
    for values, buffer in (([float("nan")] * 6, 0.0), ([1.0] * 6, float("inf"))):
        with pytest.raises(NonFiniteError):
            server.step(mean_of(server, (values, buffer, 1)))
        server.rollback()
    for name, value in flat(server).items():
        assert torch.equal(value, before[name])


def test_state_dict_continues_to_the_bit():
    """A second server loaded from the first makes the same next payload."""
    one, other = make("topk:0.5", server="fedyogi"), make("topk:0.5", server="fedyogi")
    step(one, mean_of(one, ([3.0, 1.0, 2.0, 0.5, 0.1, 5.0], 0.0, 1)))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    mean = ([1.0, -1.0, 2.0, 0.5, 0.1, 3.0], 0.0, 1)
    assert torch.equal(one.step(mean_of(one, mean)), other.step(mean_of(other, mean)))


def test_payloads_of_another_model_are_refused():
    """One coordinate too many, a missing buffers part, or bytes left over."""
    state = make().state
    payload, buffers = EXACT.encode(torch.zeros(6))[0], encode_buffers(torch.zeros(4))
    assert decode_model({"change": payload, **buffers}, "change", state, EXACT)[0].n == 6
    for bad in (
        {"change": EXACT.encode(torch.zeros(7))[0], **buffers},
        {"change": payload},
        buffers,
        {"change": torch.cat((payload, payload[:3])), **buffers},
        {"change": payload, **encode_buffers(torch.zeros(5))},
    ):
        with pytest.raises(PayloadError):
            decode_model(bad, "change", state, EXACT)


def test_outside_a_mask_nothing_moves_and_moments_are_forgotten():
    """FedYogi with a lossy downlink: a step without a mask, then one with coordinates 1 and 4 pruned. There no change is
    sent, m and the residual are 0, and v is tau^2 again, which Yogi's step without a gradient leaves."""
    server = make("topk:0.16", server="fedyogi", tau=0.1)
    step(server, mean_of(server, ([3.0, 1.0, 2.0, 0.5, 0.1, 5.0], 0.0, 1)))
    before = flat(server)
    assert before["moments.m"][1] != 0
    assert before["downlink.residual.0.weight"].flatten()[1] != 0
    mask = torch.tensor([True, False, True, True, False, True])
    inside = MaskedLayout(mask, server.state.layout)
    sections = step(server, mean_of(server, ([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], 0.0, 1)), submodel=Submodel(inside))
    change, _ = decode_model(sections, "change", server.state, MaskedCodec(make_codec("topk:0.16"), inside))
    assert not change.dense()[~mask].any()
    after = flat(server)
    assert after["moments.m"][~mask].tolist() == [0.0, 0.0]
    torch.testing.assert_close(after["moments.v"][~mask], torch.full((2,), 0.01))
    assert after["downlink.residual.0.weight"].flatten()[~mask].tolist() == [0.0, 0.0]
    assert bool((after["moments.m"][mask] != 0).all())


@pytest.mark.parametrize("damped", [False, True])
def test_a_mean_is_over_the_clients_that_hold_a_coordinate(damped):
    """Three clients of 1, 3 and 4 samples, six coordinates (A B C: who holds it):

        held by   A B C   A B     B C     A       C       nobody
        A, 1      8       4       -       6       -       -
        B, 3      8       0 *     2       -       -       -
        C, 4      2       -       9       -       5       -
        mean      (8 + 24 + 8) / 8, (4 + 0) / 4, (6 + 36) / 7, 6, 5; nobody: unchanged

    * held and not sent: a zero. The four buffers: held by A and B, A, B, and nobody. Damped, every sum is divided by all
    8 samples; buffers and votes are as before.
    """
    server = make()
    server.state.buffers.copy_(torch.tensor([9.0, 9.0, 9.0, 9.0]))
    held = {
        "A": ([1, 1, 0, 1, 0, 0], [8.0, 4.0, 0.0, 6.0, 0.0, 0.0], 1, [0, 1], 2.0),
        "B": ([1, 1, 1, 0, 0, 0], [8.0, 0.0, 2.0, 0.0, 0.0, 0.0], 3, [0, 2], 6.0),
        "C": ([1, 0, 1, 0, 1, 0], [2.0, 0.0, 9.0, 0.0, 5.0, 0.0], 4, [], 0.0),
    }
    mean = Mean(server.state, apart=True, damped=damped)
    for mask, values, samples, buffers, buffer in held.values():
        part = Submodel(
            MaskedLayout(torch.tensor(mask).bool(), server.state.layout), torch.tensor(buffers, dtype=torch.int64)
        )
        kept = torch.tensor(values).nonzero().view(-1)
        statistics = Sparse(4, part.buffers, torch.full((len(buffers),), buffer))
        mean.add(Sparse(6, kept, torch.tensor(values)[kept]), statistics, samples, part)
    aggregate = mean.result()
    assert aggregate.update.tolist() == ([5.0, 0.5, 5.25, 0.75, 2.5, 0.0] if damped else [5.0, 1.0, 6.0, 6.0, 5.0, 0.0])
    assert aggregate.voted.tolist() == [True] * 5 + [False]
    assert aggregate.buffers.tolist() == [5.0, 2.0, 6.0, 9.0]


@pytest.mark.parametrize("apart", [False, True])
def test_statistics_that_count_for_less_leave_room_for_the_global_ones(apart):
    """Weights 1 and 3, of which the first counts half: (1 (0.5 * 2 + 0.5 * 10) + 3 * 6) / 4 = 6."""
    server = make()
    server.state.buffers.fill_(10.0)
    mean = Mean(server.state, apart=apart)
    update = Sparse(6, None, torch.zeros(6))
    mean.add(update, Sparse(4, None, torch.full((4,), 2.0)), 1, scale=0.1, buffer_scale=0.5)
    mean.add(update, Sparse(4, torch.arange(4), torch.full((4,), 6.0)), 3)
    assert mean.result().buffers.tolist() == [6.0] * 4


def test_all_holding_everything_is_the_plain_mean():
    """To the bit, whatever the numbers."""
    server = make()
    generator = torch.Generator().manual_seed(3)
    plain, apart = Mean(server.state), Mean(server.state, apart=True)
    for samples in (37, 411, 9):
        update = Sparse(6, None, torch.randn(6, generator=generator))
        buffers = Sparse(4, None, torch.randn(4, generator=generator))
        plain.add(update, buffers, samples)
        apart.add(update, buffers, samples)
    one, other = plain.result(), apart.result()
    assert torch.equal(one.update, other.update)
    assert torch.equal(one.buffers, other.buffers)


@pytest.mark.parametrize("name", ["fedavgm", "nesterov", "fedadagrad", "fedadam", "fedyogi"])
def test_what_nobody_held_keeps_its_value_and_its_moments(name):
    """Two rounds, in the second of which nobody holds coordinate 5; and a first round that nobody holds it in."""
    server = make(server=name, tau=0.1)
    step(server, mean_of(server, ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 0.0, 1)))
    before = flat(server)
    part = Submodel(MaskedLayout(torch.tensor([True] * 5 + [False]), server.state.layout))
    for fresh in (False, True):
        if fresh:
            server = make(server=name, tau=0.1)
            initial = {"m": 0.0, "v": 0.1**2}
        mean = Mean(server.state, apart=True)
        mean.add(Sparse(6, None, torch.ones(6)), None, 2, part)
        change, _ = decode_model(step(server, mean.result()), "change", server.state, EXACT)
        assert change.values[5] == 0
        assert bool((change.values[:5] != 0).all())
        for key, value in flat(server).items():
            if key.startswith("moments."):
                wanted = initial[key[-1]] if fresh else float(before[key][5])
                assert float(value[5]) == pytest.approx(wanted), key
