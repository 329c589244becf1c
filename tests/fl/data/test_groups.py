"""Groups of samples, and the partition by them. Oracles: the definitions, brute force, cases by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.spec import SpecError
from fl.common.config import DataOptions
from fl.common.errors import ConfigError
from fl.common.seeds import numpy_generator
from fl.data import Dataset, Split, check_dataset, load_dataset
from fl.data.groups import draw_groups, share_of_each, take_of_each
from fl.data.partition import check_partition
from fl.data.partition.share import partition
from fl.data.split import split_validation

SIZES = {3: 6, 7: 1, 8: 4, 20: 9, 21: 2, 40: 5}
"""Training samples of each group of `made_up`, by the group's number."""


def made_up(*_: object) -> Dataset:
    """27 training samples in six groups, in no order; the image of each is filled with the group's number."""
    groups = np.random.default_rng(0).permutation(np.repeat(list(SIZES), list(SIZES.values())))
    x = torch.from_numpy(groups.astype(np.uint8)).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    train = Split(x.contiguous(), torch.arange(len(groups)) % 5)
    test = Split(torch.zeros(7, 1, 4, 4, dtype=torch.uint8), torch.arange(7) % 5)
    return Dataset("made_up", train, test, classes=5, groups=torch.from_numpy(groups))


def load(seed: int = 0, **options: object) -> Dataset:
    """`made_up` as a run loads it."""
    given_: dict[str, object] = {"dataset": "tests.fl.data.test_groups:made_up", "partition": "natural", **options}
    return load_dataset(DataOptions(**given_), seed=seed)  # type: ignore[arg-type]


def held(data: Dataset) -> list[dict[int, int]]:
    """For each client, how many samples it holds of each group, told from the images."""
    assert data.groups is not None
    names = data.train.x[:, 0, 0, 0]
    clients = [names[data.groups == client] for client in range(int(data.groups.max()) + 1)]
    return [{int(name): int((own == name).sum()) for name in own.unique()} for own in clients]


def test_every_group_that_can_give_a_validation_sample_is_a_client() -> None:
    """Oracle: all but the group of one sample, whole, in order of their numbers; the test data as they were."""
    data = load()
    assert held(data) == [{name: size} for name, size in SIZES.items() if size >= 2]
    assert torch.equal(data.test.y, made_up().test.y)
    assert held(load(partition="natural,min=1")) == [{name: size} for name, size in SIZES.items()]
    assert held(load(partition="natural,min=5")) == [{3: 6}, {20: 9}, {40: 5}]


def test_clients_are_drawn_by_seed() -> None:
    """Oracle: three whole groups, always the same by seed, others by another, and each of five now and then."""
    drawn = [held(load(seed, clients=3)) for seed in range(40)]
    for seed, clients in enumerate(drawn):
        assert len(clients) == 3
        assert all(own == {name: SIZES[name]} for own in clients for name in own)
        assert clients == held(load(seed, clients=3))
    assert {name for clients in drawn for own in clients for name in own} == {3, 8, 20, 21, 40}


@pytest.mark.parametrize(("limit", "sizes"), [(5, [1] * 5), (15, [3, 3, 5, 1, 3]), (26, [6, 4, 9, 2, 5])])
def test_limit_train_takes_from_all(limit: int, sizes: list[int]) -> None:
    """Oracle by hand: one of each; ten more among spare 5, 3, 8, 1, 4 are 2.4, 1.4, 3.8, 0.5, 1.9; at the end, all."""
    data = load(limit_train=limit)
    got = [next(iter(own.values())) for own in held(data)]
    assert sum(got) == len(data.train) == limit
    assert np.abs(np.array(got) - sizes).max() <= 1
    assert got == sizes or limit == 15
    assert torch.equal(data.train.x, load(limit_train=limit).train.x)


def test_other_partitions_do_not_see_the_groups() -> None:
    """Oracle: all 27 samples, and no groups."""
    data = load(partition="iid", clients=2)
    assert (len(data.train), data.groups) == (27, None)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"clients": 6}, "--clients 6 with --partition natural: only 5 of the 6 groups of made_up have at least 2"),
        ({"partition": "natural,min=10"}, "--partition natural,min=10: only 0 of the 6 groups"),
        ({"limit_train": 4}, "--limit-train 4 must leave each of the 5 clients a sample"),
        (
            {"dataset": "tests.user_code:few_digits"},
            "groups, such as femnist, not --dataset tests.user_code:few_digits",
        ),
    ],
)
def test_what_does_not_fit(options: dict[str, object], says: str) -> None:
    """Oracle: one sentence that names the option, the value and what there is."""
    with pytest.raises(ConfigError, match=says):
        load(**options)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "digits"])
def test_refused_before_anything_is_loaded(name: str) -> None:
    """Oracle: data sets known to have no groups are refused by name; others may have some."""
    with pytest.raises(ConfigError, match=f"--partition natural,min=3 needs .* femnist, not --dataset {name}"):
        check_dataset(DataOptions(dataset=name, partition="natural,min=3"))
    check_dataset(DataOptions(dataset="femnist", partition="natural"))
    check_dataset(DataOptions(dataset="tests.user_code:few_digits", partition="natural"))


@pytest.mark.parametrize(("spec", "says"), [("natural:3", "takes 0 argument"), ("natural,min=0", "at least 1")])
def test_unreadable_specifications(spec: str, says: str) -> None:
    """Oracle: refused before any data are loaded."""
    with pytest.raises(SpecError, match=says):
        check_partition(spec)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20), part=st.floats(0, 1))
def test_share_of_each(sizes: list[int], part: float) -> None:
    """Oracle: the definition: the exact total, 1 ... size of each, within one sample of the proportion."""
    exact = np.array(sizes)
    total = len(sizes) + round(part * (exact.sum() - len(sizes)))
    kept = share_of_each(exact, total)
    assert kept.sum() == total
    assert (kept >= 1).all()
    assert (kept <= exact).all()
    spare = exact - 1
    assert np.abs(kept - 1 - spare * (total - len(sizes)) / max(1, spare.sum())).max() <= 1


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_take_of_each(sizes: list[int], seed: int) -> None:
    """Oracle: the definition, on members in random order."""
    random = np.random.default_rng(seed)
    groups = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    counts = np.array([random.integers(0, size + 1) for size in sizes])
    taken = take_of_each(groups, counts, numpy_generator(seed, "test"))
    assert (np.diff(taken) > 0).all()
    assert np.bincount(groups[taken], minlength=len(sizes)).tolist() == counts.tolist()


def test_any_member_is_as_likely() -> None:
    """Oracle: each of 10 members of a group is taken 300 of 1,000 times, within 5 standard deviations."""
    groups = np.array([0, 1] * 10)
    times = np.zeros(20)
    for seed in range(1000):
        times[take_of_each(groups, np.array([3, 0]), numpy_generator(seed, "test"))] += 1
    assert not times[1::2].any()
    assert np.abs(times[::2] - 300).max() < 5 * np.sqrt(1000 * 0.3 * 0.7)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20), fraction=st.floats(0, 0.5), seed=st.integers(0, 999)
)
def test_validation_leaves_every_group_a_sample(sizes: list[int], fraction: float, seed: int) -> None:
    """Oracle: the definition; what is held out is the nearest whole number to the fraction wherever that can be."""
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    train, validation = split_validation(len(groups), fraction, seed, groups)
    assert np.array_equal(np.sort(np.concatenate((train, validation))), np.arange(len(groups)))
    assert len(np.unique(groups[train])) == len(sizes)
    wanted = max(round(fraction * len(groups)), 1) if fraction else 0
    assert len(validation) == min(wanted, len(groups) - len(sizes))
    again = split_validation(len(groups), fraction, seed, groups)
    assert np.array_equal(validation, again[1])


def test_one_group_is_split_as_no_groups_are() -> None:
    """Oracle: the split without groups."""
    for one, other in zip(split_validation(99, 0.2, 5), split_validation(99, 0.2, 5, np.zeros(99, int)), strict=True):
        assert np.array_equal(one, other)


def test_a_client_is_one_group() -> None:
    """Oracle: the definition: disjoint, complete, one group each; whatever the seed."""
    groups = np.random.default_rng(1).permutation(np.repeat(np.arange(5), [4, 1, 7, 2, 3]))
    for seed in (0, 1):
        parts = partition(np.zeros(17, int), 5, "natural", seed, groups)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(17))
        assert [np.unique(groups[part]).tolist() for part in parts] == [[0], [1], [2], [3], [4]]


def test_draw_groups_does_not_change_what_it_is_given() -> None:
    """Oracle: the data set as it was made."""
    data = made_up()
    draw_groups(data, DataOptions(clients=2), 1, 0)
    assert torch.equal(data.train.x, made_up().train.x)
