"""PowerSGD. Oracles: a NumPy transcription of the paper's Algorithm 1 in fp64, the singular value decomposition, and
fp32 products and sums in NumPy (bit for bit)."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import Layout, NonFiniteError, PayloadError
from compression.lowrank import LowRank
from tests.compression.cases import EXAMPLES, bits

MODEL = Layout(
    ("conv", "norm", "empty", "fc", "scale", "small", "wide"),
    ((16, 8, 3, 3), (16,), (0, 4), (40, 64), (), (2, 3), (5, 3000)),
)


def normal(layout: Layout, seed: int) -> Tensor:
    return torch.randn(layout.total, generator=torch.Generator().manual_seed(seed))


def matrix_layout(rows: int, cols: int) -> Layout:
    return Layout(("m",), ((rows, cols),))


def of_rank(rank: int, rows: int, cols: int, seed: int = 0) -> Tensor:
    """A matrix of that rank, flat."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        (rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, cols))).astype(np.float32)
    ).view(-1)


def relative(error: Tensor, to: Tensor) -> float:
    return float(error.double().norm() / to.double().norm())


@EXAMPLES
@given(
    st.lists(st.lists(st.integers(0, 12), max_size=4), max_size=6),
    st.integers(1, 5),
    st.sampled_from([0.0, 1e-45, 1e-40, 1e-20, 1.0, 1e20]),
    st.integers(0, 2**63 - 1),
)
def test_any_layout_and_any_size_of_values(shapes: list[list[int]], rank: int, scale: float, key: int) -> None:
    """`count` factors, all finite; what is no matrix, or no smaller as factors, arrives bit for bit."""
    layout = Layout(tuple(f"p{i}" for i in range(len(shapes))), tuple(map(tuple, shapes)))
    codec, x = LowRank(rank), normal(layout, 3) * scale
    factors, memory = codec.factorise(x, layout, None, key)
    assert factors.dtype == torch.float32
    assert factors.numel() == codec.count(layout) <= layout.total
    assert torch.isfinite(factors).all()
    decoded = codec.expand(factors, layout)
    assert torch.isfinite(decoded).all()
    for name, before, after in zip(layout.names, layout.views(x), layout.views(decoded), strict=True):
        if name in memory:
            assert before.ndim >= 2
            assert rank * (before.shape[0] + before[0].numel()) < before.numel()
            assert after.double().norm() <= before.double().norm() * (1 + 1e-5) + 1e-42
        else:
            assert bits(before) == bits(after)


def test_what_is_sent_and_how_many_floats() -> None:
    """Matrices that get smaller: 16 x 72, 40 x 64 and 5 x 3000; the rest as it is."""
    others = 16 + 1 + 6
    assert LowRank(2).count(MODEL) == 2 * (16 + 72 + 40 + 64 + 5 + 3000) + others
    assert LowRank(5).count(MODEL) == 5 * (16 + 72 + 40 + 64) + 15000 + others  # 5 x 3000 has rank 5
    assert LowRank(1000).count(MODEL) == MODEL.total
    x = normal(MODEL, 0)
    assert torch.equal(LowRank(1000).expand(*(LowRank(1000).factorise(x, MODEL, None, 0)[0], MODEL)), x)


@pytest.mark.parametrize(("true_rank", "rank"), [(1, 1), (3, 3), (2, 4)])
def test_a_matrix_of_no_higher_rank_is_recovered(true_rank: int, rank: int) -> None:
    """To the precision of fp32, from the first step on, and with the memory of earlier ones."""
    layout, codec, memory = matrix_layout(50, 80), LowRank(rank), None
    for step in range(4):
        x = of_rank(true_rank, 50, 80, step)
        factors, memory = codec.factorise(x, layout, memory, step)
        assert relative(codec.expand(factors, layout) - x, x) < 1e-5


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_five_steps_of_the_papers_algorithm_with_error_feedback(rank: int) -> None:
    """Against NumPy in fp64: the same decoded matrices and residuals; update + residual == decoded + new residual."""
    shape, rng = (30, 45), np.random.default_rng(rank)
    layout, codec = matrix_layout(*shape), LowRank(rank)
    q = rng.standard_normal((shape[1], rank))
    memory = {"m": torch.from_numpy(q.T.astype(np.float32).copy())}
    residual, error = torch.zeros(layout.total), np.zeros(shape)
    for step in range(5):
        update = of_rank(6, *shape, seed=step) + 0.1 * normal(layout, step)
        # Algorithm 1: P = M Q; P = orthogonalise(P); Q = M^T P; M is about P Q^T.
        m = update.double().view(shape).numpy() + error
        p = m @ q
        for i in range(rank):
            for j in range(i):
                p[:, i] -= (p[:, j] @ p[:, i]) * p[:, j]
            p[:, i] /= np.linalg.norm(p[:, i])
        q = m.T @ p
        error = m - p @ q.T
        total = update + residual
        factors, memory = codec.factorise(total, layout, memory, step)
        decoded = codec.expand(factors, layout)
        residual = total - decoded
        assert relative(decoded - torch.from_numpy(p @ q.T).view(-1), total) < 1e-4
        assert relative(residual - torch.from_numpy(error).view(-1), total) < 1e-4
        assert torch.allclose(decoded + residual, total, rtol=0, atol=1e-5)
        span = torch.from_numpy(q @ np.linalg.pinv(q)).float()
        assert relative(span @ memory["m"].t() - memory["m"].t(), memory["m"]) < 1e-4


def test_memory_leads_to_the_best_approximation() -> None:
    """On a matrix that stays the same the error falls to that of the singular value decomposition."""
    layout, codec, memory = matrix_layout(40, 70), LowRank(3), None
    x = normal(layout, 1)
    s = np.linalg.svd(x.view(40, 70).double().numpy(), compute_uv=False)
    best = float(np.sqrt((s[3:] ** 2).sum() / (s**2).sum()))
    errors = []
    for step in range(200):
        factors, memory = codec.factorise(x, layout, memory, step)
        errors.append(relative(x - codec.expand(factors, layout), x))
    assert errors[0] > 1.01 * best
    assert errors[-1] == pytest.approx(best, rel=1e-3)
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(errors))


def test_the_left_factor_is_orthonormal() -> None:
    """For full, deficient and zero matrices alike."""
    layout, codec = matrix_layout(20, 30), LowRank(4)
    for x in (normal(layout, 0), of_rank(2, 20, 30), torch.zeros(600), torch.ones(600), 1e-42 * normal(layout, 0)):
        left = codec.factorise(x, layout, None, 5)[0][:80].view(4, 20).double()
        assert torch.allclose(left @ left.t(), torch.eye(4, dtype=torch.float64), atol=1e-6)


def test_a_zero_matrix_decodes_to_zero_and_is_forgotten() -> None:
    """No NaN; the zero columns that it leaves in the memory do not stay zero."""
    layout, codec = matrix_layout(20, 30), LowRank(2)
    factors, memory = codec.factorise(torch.zeros(600), layout, None, 0)
    assert not codec.expand(factors, layout).any()
    assert not memory["m"].any()
    x = of_rank(2, 20, 30)
    factors, memory = codec.factorise(x, layout, memory, 1)
    assert relative(codec.expand(factors, layout) - x, x) < 1e-5


def test_the_start_follows_from_key_and_name() -> None:
    """Senders with one key start equal, whatever the tensors around; another key or name gives another start."""
    codec, x = LowRank(2), normal(matrix_layout(20, 30), 0)

    def first(name: str, key: int) -> Tensor:
        return codec.factorise(x, Layout((name,), ((20, 30),)), None, key)[0]

    assert torch.equal(first("m", 7), first("m", 7))
    assert not torch.equal(first("m", 7), first("m", 8))
    assert not torch.equal(first("m", 7), first("n", 7))
    later = Layout(("other", "m"), ((9, 9), (20, 30)))
    _, memory = codec.factorise(torch.cat((torch.ones(81), x)), later, None, 7)
    assert torch.equal(memory["m"].view(-1), first("m", 7)[40:])


@pytest.mark.parametrize("shift", [1, 3, 4, 16])
def test_the_address_does_not_matter(shift: int) -> None:
    """A vector inside a larger one gives the bits that it gives by itself."""
    codec, x = LowRank(3), normal(MODEL, 6)
    other = torch.cat((torch.zeros(shift), x))[shift:]
    first, memory = codec.factorise(x, MODEL, None, 0)
    assert bits(codec.factorise(other, MODEL, None, 0)[0]) == bits(first)
    assert bits(codec.factorise(other, MODEL, memory, 0)[0]) == bits(codec.factorise(x, MODEL, memory, 0)[0])


def test_expand_is_fp32_products_and_sums_in_order() -> None:
    """Bit for bit as NumPy adds them up, with one thread and with two, into a new tensor and into an old one."""
    codec = LowRank(3)
    shapes = Layout(("a", "b", "c"), ((40, 64), (700, 300), (5, 70_000)))
    factors, _ = codec.factorise(normal(shapes, 4), shapes, None, 1)
    rows, cols = [40, 700, 5], [64, 300, 70_000]
    values, expected = factors.numpy(), []
    lefts, rights = np.split(values, [3 * sum(rows)])
    for left, right, r, c in zip(
        np.split(lefts, 3 * np.cumsum(rows)[:-1]), np.split(rights, 3 * np.cumsum(cols)[:-1]), rows, cols, strict=True
    ):
        p, q = left.reshape(3, r), right.reshape(3, c)
        total = np.outer(p[0], q[0])
        for i in (1, 2):
            total = total + np.outer(p[i], q[i])
        expected.append(total.reshape(-1))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert bits(codec.expand(factors, shapes)) == np.concatenate(expected).tobytes()
    finally:
        torch.set_num_threads(threads)
    out = torch.full((shapes.total,), float("nan"))
    assert codec.expand(factors, shapes, out) is out
    assert bits(out) == np.concatenate(expected).tobytes()


def test_memory_and_update_are_only_read() -> None:
    """So a failed round may be repeated; and memory is no view of the factors."""
    codec, x = LowRank(2), normal(MODEL, 0)
    first, memory = codec.factorise(x, MODEL, None, 0)
    kept, x_kept = {name: tensor.clone() for name, tensor in memory.items()}, x.clone()
    once, new = codec.factorise(x, MODEL, memory, 1)
    assert torch.equal(x, x_kept)
    assert all(torch.equal(memory[name], kept[name]) for name in kept)
    assert set(new) == set(memory) == {"conv", "fc", "wide"}
    assert torch.equal(once, codec.factorise(x, MODEL, memory, 1)[0])
    first.zero_()
    assert all(torch.equal(memory[name], kept[name]) for name in kept)


def test_mistakes_are_refused() -> None:
    """Too large an update, too large factors, memory of another rank, the wrong number of factors, no rank."""
    layout, codec = matrix_layout(20, 30), LowRank(2)
    for scale in (1e38, 3e36):
        with pytest.raises(NonFiniteError, match="too large"):
            codec.factorise(torch.full((600,), scale), layout, None, 0)
    for value in (1e20, 3e38, float("nan")):
        with pytest.raises(PayloadError, match="too large"):
            codec.expand(torch.full((100,), value), layout)
    _, memory = LowRank(3).factorise(torch.ones(600), layout, None, 0)
    with pytest.raises(ValueError, match=r"memory of 'm' has shape \(3, 30\), not \(2, 30\)"):
        codec.factorise(torch.ones(600), layout, memory, 0)
    with pytest.raises(ValueError, match="99 factors where 100"):
        codec.expand(torch.ones(99), layout)
    with pytest.raises(ValueError, match="at least 1"):
        LowRank(0)
