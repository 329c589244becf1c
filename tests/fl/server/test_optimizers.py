"""Server optimizers against two oracles.

Oracle 1: Algorithm 2 of Reddi et al. 2020 (and Hsu et al. 2019 for FedAvgM, DiLoCo and DeMo), written out in NumPy float64
in the paper's own sign (Delta = local - global, x += ...). Oracle 2: one coordinate, worked by hand. Oracle 3, of Nesterov
momentum: torch's SGD.
"""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from compression.spec import SpecError
from fl.common.config import ServerOptions
from fl.common.errors import ConfigError
from fl.server.optimizers import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    ServerOptimizer,
    make_server_optimizer,
)

NAMES = ["fedavg", "fedavgm", "nesterov", "sign", "fedadagrad", "fedadam", "fedyogi"]


def paper(
    name: str, x: np.ndarray, deltas: list[np.ndarray], *, eta: float, beta1: float, beta2: float, tau: float
) -> list[np.ndarray]:
    """x after every round, in float64; `deltas` are the paper's Delta_t, local minus global."""
    x, m, v = x.copy(), np.zeros_like(x), np.full_like(x, tau**2)
    trace = []
    for delta in deltas:
        square = delta * delta
        if name == "fedavg":
            x = x + eta * delta
        elif name == "fedavgm":
            m = beta1 * m + delta
            x = x + eta * m
        elif name == "nesterov":
            m = beta1 * m + delta
            x = x + eta * (delta + beta1 * m)
        elif name == "sign":
            x = x + eta * np.sign(delta)
        else:
            m = beta1 * m + (1 - beta1) * delta
            if name == "fedadagrad":
                v = v + square
            elif name == "fedadam":
                v = beta2 * v + (1 - beta2) * square
            else:
                v = v - (1 - beta2) * square * np.sign(v - square)
            x = x + eta * m / (np.sqrt(v) + tau)
        trace.append(x)
    return trace


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta1", [0.0, 0.4, 0.9])
def test_equals_the_paper_over_eight_steps(name: str, dtype: torch.dtype, beta1: float) -> None:
    """Within rounding of the dtype, for updates on both sides of sqrt(v), so that Yogi takes both signs."""
    rng = np.random.default_rng(3)
    start = rng.normal(size=257)
    deltas = [rng.normal(size=257) * 10.0 ** rng.uniform(-4, 0, size=257) for _ in range(8)]
    options = ServerOptions(
        server=name,
        server_lr=0.1,
        server_momentum=beta1,
        beta1=beta1,
        beta2=0.95,
        tau=1e-2,
    )
    p = torch.tensor(start, dtype=dtype)
    optimizer = make_server_optimizer(options, [p])
    expected = paper(name, start, deltas, eta=0.1, beta1=beta1, beta2=0.95, tau=1e-2)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for delta, x in zip(deltas, expected, strict=True):
        p.grad = torch.tensor(-delta, dtype=dtype)
        optimizer.step()
        np.testing.assert_allclose(p.double().numpy(), x, rtol=tolerance, atol=tolerance)


# x = 10, D = 3 then 1, beta1 = 1/2, beta2 = 3/4, tau = 1; in the adaptive three m = 1.5, 1.25, and v = 1 at first.
BY_HAND = {
    "fedavg": (7.0, 6.0),
    "fedavgm": (7.0, 4.5),  # m = 3, then 1.5 + 1 = 2.5
    "nesterov": (5.5, 3.25),  # m = 3, a step of 3 + 1.5; then m = 2.5, a step of 1 + 1.25
    "sign": (9.0, 8.0),
    "fedadagrad": (10 - 1.5 / (10**0.5 + 1), 10 - 1.5 / (10**0.5 + 1) - 1.25 / (11**0.5 + 1)),  # v = 10, 11
    "fedadam": (10 - 1.5 / (3**0.5 + 1), 10 - 1.5 / (3**0.5 + 1) - 1.25 / (2.5**0.5 + 1)),  # v = 3, 2.5
    "fedyogi": (10 - 1.5 / (3.25**0.5 + 1), 10 - 1.5 / (3.25**0.5 + 1) - 1.25 / (3**0.5 + 1)),  # v = 3.25, 3
}


@pytest.mark.parametrize("name", NAMES)
def test_one_coordinate_by_hand(name: str) -> None:
    """The numbers in BY_HAND, worked on paper."""
    options = ServerOptions(
        server=name,
        server_lr=1,
        server_momentum=0.5,
        beta1=0.5,
        beta2=0.75,
        tau=1,
    )
    p = torch.tensor([10.0], dtype=torch.float64)
    optimizer = make_server_optimizer(options, [p])
    for d, x in zip((3.0, 1.0), BY_HAND[name], strict=True):
        p.grad = torch.tensor([d], dtype=torch.float64)
        optimizer.step()
        assert p.item() == pytest.approx(x, abs=1e-14)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_nesterov_is_that_of_torch(momentum: float) -> None:
    """Oracle: torch.optim.SGD(nesterov=True), which has plain SGD for momentum 0, after each of ten steps."""
    torch.manual_seed(0)
    p = torch.randn(100, dtype=torch.float64)
    q = p.clone()
    ours = make_server_optimizer(ServerOptions(server="nesterov", server_momentum=momentum), [p])
    torchs = torch.optim.SGD([q], lr=0.7, momentum=momentum, nesterov=momentum > 0)
    for _ in range(10):
        p.grad = torch.randn(100, dtype=torch.float64)
        q.grad = p.grad.clone()
        ours.step()
        torchs.step()
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-13)


def test_sign_leaves_what_has_no_update() -> None:
    """sign(0) = 0: coordinates that nobody sent, or nobody holds, stay."""
    p = torch.ones(3)
    p.grad = torch.tensor([0.0, 1e-20, -5.0])
    make_server_optimizer(ServerOptions(server="sign", server_lr=0.5), [p]).step()
    assert p.tolist() == [1.0, 0.5, 1.5]


def test_yogi_keeps_v_where_it_equals_the_square() -> None:
    """sign(0) = 0 in the paper's formula: v = tau^2 = 4 and D = 2 leave v at 4."""
    p = torch.zeros(1)
    optimizer = FedYogi([p], tau=2.0)
    p.grad = torch.tensor([2.0])
    optimizer.step()
    assert optimizer.state[p]["v"].item() == 4.0


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_tensors_equals_one_flat_vector(name: str) -> None:
    """The rules are element-wise, so shapes, strides and grouping must not matter; without grad, no move."""
    torch.manual_seed(0)
    shapes = [(3,), (2, 3, 4, 4), ()]
    tensors = [torch.randn(shape) for shape in shapes]
    flat = torch.cat([t.reshape(-1) for t in tensors])
    tensors[1] = tensors[1].to(memory_format=torch.channels_last)
    still = torch.ones(2)
    options = ServerOptions(server=name)
    many = make_server_optimizer(options, [*tensors, still])
    one = make_server_optimizer(options, [flat])
    for _ in range(3):
        grads = [torch.randn(shape) for shape in shapes]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = g
        flat.grad = torch.cat([g.reshape(-1) for g in grads])
        many.step()
        one.step()
    torch.testing.assert_close(torch.cat([t.reshape(-1) for t in tensors]), flat, rtol=1e-6, atol=1e-6)
    assert still.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_replaced(name: str) -> None:
    """Those of before a step are what they were."""
    p = torch.ones(5)
    optimizer = make_server_optimizer(ServerOptions(server=name), [p])
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for _ in range(3):
        p.grad = torch.randn(5)
        optimizer.step()
        kept += [(moment, moment.clone()) for moment in optimizer.state[p].values()]
    for moment, copied in kept:
        assert torch.equal(moment, copied)


@pytest.mark.parametrize("name", NAMES)
def test_state_survives_saving_and_loading_bitwise(name: str, tmp_path) -> None:
    """Oracle: the optimizer that was never interrupted. Saved through torch.load(weights_only=True)."""
    torch.manual_seed(1)
    grads = [torch.randn(1000) * 0.01 for _ in range(5)]
    options = ServerOptions(server=name)
    p = torch.randn(1000)
    optimizer = make_server_optimizer(options, [p])
    q: torch.Tensor | None = None
    for step, grad in enumerate(grads):
        if step == 2:
            torch.save({"p": p, "state": optimizer.state_dict()}, tmp_path / "server.pt")
            saved = torch.load(tmp_path / "server.pt", weights_only=True)
            q = saved["p"]
            resumed = make_server_optimizer(options, [q])
            resumed.load_state_dict(saved["state"])
        p.grad = grad.clone()
        optimizer.step()
        if q is not None:
            q.grad = grad.clone()
            resumed.step()
    assert q is not None
    assert torch.equal(p, q)


def test_in_place_and_the_gradient_is_left_alone() -> None:
    """The parameter keeps its storage (it is a view of the global model) and D is not overwritten."""
    for name in NAMES:
        p = torch.randn(64)
        address = p.data_ptr()
        p.grad = torch.randn(64)
        before = p.grad.clone()
        make_server_optimizer(ServerOptions(server=name), [p]).step()
        assert p.data_ptr() == address
        assert torch.equal(p.grad, before)


def test_a_copied_optimizer_steps_on_its_own() -> None:
    """copy.deepcopy is how a caller takes a snapshot; the copy must neither fail nor touch the original."""
    p = torch.ones(4)
    p.grad = torch.ones(4)
    optimizer = FedYogi([p])
    optimizer.step()
    twin = copy.deepcopy(optimizer)
    before = p.clone(), optimizer.state[p]["v"].clone()
    twin.step()
    assert torch.equal(p, before[0])
    assert torch.equal(optimizer.state[p]["v"], before[1])
    assert not torch.equal(twin.param_groups[0]["params"][0], p)


def test_default_learning_rates() -> None:
    """Oracle: the help text of --server-lr."""
    rates = {name: make_server_optimizer(ServerOptions(server=name), [torch.zeros(1)]).defaults["lr"] for name in NAMES}
    assert rates == {
        **{"fedavg": 1.0, "fedavgm": 1.0, "nesterov": 0.7, "sign": 0.001},
        **{"fedadagrad": 0.01, "fedadam": 0.01, "fedyogi": 0.01},
    }
    chosen = make_server_optimizer(ServerOptions(server="fedadam", server_lr=0.0), [torch.zeros(1)])
    assert chosen.defaults["lr"] == 0.0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda p: FedAvg(p, lr=-1), "server_lr"),
        (lambda p: FedAvgM(p, momentum=1.0), "server_momentum"),
        (lambda p: FedAdagrad(p, tau=0), "tau"),
        (lambda p: FedAdam(p, beta1=1.0), "beta1"),
        (lambda p: FedYogi(p, beta2=-0.1), "beta2"),
        (lambda p: make_server_optimizer(ServerOptions(server="fedprox"), p), "fedprox"),
    ],
)
def test_bad_values_are_refused_by_name(make: Callable[[list[torch.Tensor]], ServerOptimizer], word: str) -> None:
    """Oracle: the house rule that an error names the option."""
    with pytest.raises((ConfigError, SpecError), match=word):
        make([torch.zeros(1)])


def test_lr_schedulers_and_closures_work() -> None:
    """An ordinary torch optimizer: a scheduler changes lr, a closure's value is returned."""
    p = torch.zeros(1)
    optimizer = FedAvg([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    p.grad = torch.ones(1)
    assert optimizer.step(lambda: 7.0) == 7.0
    scheduler.step()
    optimizer.step()
    assert p.item() == -1.5
