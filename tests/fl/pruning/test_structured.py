"""shrink. Oracles: counts and choices by hand on lenet5 (channels 6, 16, 120, 84) and ResNet-18."""

import itertools

import pytest
import torch

from fl.models.surgery.channels import find_groups
from fl.pruning.structured import METHODS, shrink
from tests.fl.models.surgery.networks import flat_of, network


def kept_of(sparsity: float, **options: object) -> list[list[int]]:
    model, example = network("lenet5")
    return [kept.tolist() for kept in shrink(model, sparsity, example, **options).kept]  # type: ignore[arg-type]


def test_parameters_of_resnet18() -> None:
    """What torch-pruning itself leaves at 0.4."""
    model, example = network("resnet18 batch")
    sub = shrink(model, 0.4, example, method="l1")
    assert (sub.n, sub.coordinates.numel()) == (11_173_962, 4_009_418)
    assert sum(p.numel() for p in sub.model.parameters()) == 4_009_418


def test_groups_of_group_norm_stay_whole() -> None:
    """19 of 32 groups everywhere: the same statistics as before."""
    model, example = network("resnet18 group")
    sub = shrink(model, 0.4, example)
    norms = [module for module in sub.model.modules() if isinstance(module, torch.nn.GroupNorm)]
    assert {norm.num_groups for norm in norms} == {19}
    assert sorted({norm.num_channels for norm in norms}) == [38, 76, 152, 304]


@pytest.mark.parametrize(
    ("sparsity", "round_to", "counts"),
    [
        (0.0, 1, [6, 16, 120, 84]),
        (0.4, 1, [3, 9, 72, 50]),
        (0.4, 8, [6, 16, 72, 56]),
        (0.9, 1, [1, 1, 12, 8]),
        (0.999, 1, [1, 1, 1, 1]),
    ],
)
def test_counts(sparsity: float, round_to: int, counts: list[int]) -> None:
    """floor(c (1 - s)), at least one, then up to a multiple, at most all."""
    assert [len(kept) for kept in kept_of(sparsity, round_to=round_to)] == counts


def test_scores_by_hand() -> None:
    """The largest sums over all that a channel owns win: its filter, its bias and what reads it."""
    model, example = network("lenet5")
    first, second = (model.get_submodule(name) for name in ("0", "3"))
    for method, power in (("l1", 1), ("l2", 2)):
        own = first.weight.detach().abs().pow(power).sum((1, 2, 3)) + first.bias.detach().abs().pow(power)
        scores = own + second.weight.detach().abs().pow(power).sum((0, 2, 3))
        best = scores.argsort(descending=True)[:3].sort().values.tolist()
        assert shrink(model, 0.4, example, method=method).kept[0].tolist() == best


def test_gradient() -> None:
    """The caller's numbers decide; among equals the first stay."""
    model, example = network("lenet5")
    worth = torch.zeros(flat_of(model).numel())
    worth[25 * 4] = 1  # filter 4 of the first layer
    kept = shrink(model, 0.5, example, method="gradient", gradient=worth).kept
    assert kept[0].tolist() == [0, 1, 4]
    assert kept[1].tolist() == list(range(8))


@pytest.mark.parametrize("method", METHODS)
def test_nested(method: str) -> None:
    """More sparsity keeps a part of what less keeps."""
    model, example = network("bilstm last")
    groups, gradient = find_groups(model, example), flat_of(model).abs()
    masks = [shrink(model, s, groups=groups, method=method, gradient=gradient).mask() for s in (0.9, 0.7, 0.4, 0.0)]
    for smaller, larger in itertools.pairwise(masks):
        assert bool((smaller <= larger).all())
        assert int(smaller.sum()) < int(larger.sum())
    assert bool(masks[-1].all())


def test_random_depends_on_the_key_alone() -> None:
    """Same key, same channels; another key, others."""
    torch.manual_seed(0)
    first = kept_of(0.5, method="random", key=1)
    torch.manual_seed(1)
    assert kept_of(0.5, method="random", key=1) == first
    assert kept_of(0.5, method="random", key=2) != first


def test_protect_and_overrides() -> None:
    """Single layers by name, prefix or weight."""
    counts = [len(kept) for kept in kept_of(0.5, protect=("3.weight",), overrides={"0": 0.9, "7": 0.25})]
    assert counts == [1, 16, 90, 42]
    model, example = network("resnet18 batch")
    sub = shrink(model, 0.5, example, protect=("layer1",), overrides={"layer2": 0.25, "layer2.0.conv1": 0.75})
    assert sub.model.get_submodule("layer1.0.conv1").out_channels == 64
    assert sub.model.get_submodule("layer2.0.conv1").out_channels == 32
    assert sub.model.get_submodule("layer2.1.conv1").out_channels == 96
    assert sub.model.get_submodule("layer3.0.conv1").out_channels == 128


def test_refused() -> None:
    """One sentence that names what is wrong."""
    model, example = network("lenet5")
    for options, words in (
        ({"method": "norm"}, "one of l1, l2, random, gradient, not 'norm'"),
        ({"method": "gradient"}, r"\[44426\] coordinates, not none"),
        ({"overrides": {"12": 0.5}}, "'12' is no layer that can be pruned; these are: 0, 3, 7, 9"),
        ({"overrides": {"0": 1.0}}, "the sparsity of '0' must be at least 0 and below 1, not 1"),
        ({"round_to": 0}, "round_to must be at least 1, not 0"),
    ):
        with pytest.raises(ValueError, match=words):
            shrink(model, 0.4, example, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sparsity must be at least 0 and below 1, not 1"):
        shrink(model, 1.0, example)
    with pytest.raises(ValueError, match="example input or the groups"):
        shrink(model, 0.4)
