"""Oracles: the definition of a partition (all positions, once each), the bounds each scheme states, worked examples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression.spec import SpecError
from fl.common.errors import ConfigError
from fl.common.seeds import numpy_generator
from fl.data.partition import check_partition
from fl.data.partition.minimum import raise_to_minimum
from fl.data.partition.share import partition

SPECS = ["iid", "dirichlet:0.01", "dirichlet:0.3", "dirichlet:1e6", "shards:2", "quantity:0", "quantity:2"]
TEN = np.repeat(np.arange(10), 100)


def assert_partition(parts, count):
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


@settings(max_examples=60, deadline=None)
@given(
    spec=st.sampled_from(SPECS),
    classes=st.integers(1, 12),
    clients=st.integers(1, 40),
    minimum=st.integers(1, 5),
    spare=st.integers(0, 300),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_sample_once_and_the_minimum_kept(spec, classes, clients, minimum, spare, seed):
    """Oracle: the definition. Holds down to exactly clients * max(min, shards) samples."""
    count = clients * max(minimum, 2 if spec.startswith("shards") else 1) + spare
    labels = np.random.default_rng(seed % 1000).integers(0, classes, count)
    parts = partition(labels, clients, f"{spec},min={minimum}", seed)
    assert len(parts) == clients
    assert_partition(parts, count)
    assert min(map(len, parts)) >= minimum


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=12),
    clients=st.integers(1, 40),
    per_client=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
)
def test_labels_gives_exactly_k_labels_or_refuses(counts, clients, per_client, seed):
    """Oracle: a 0/1 table with row sums K, every column used, no column above its samples exists iff the three
    inequalities below hold (Gale-Ryser for rows of equal sum)."""
    labels = np.repeat(np.arange(len(counts)), counts)
    possible = (
        per_client <= len(counts) <= clients * per_client and np.minimum(counts, clients).sum() >= clients * per_client
    )
    if not possible:
        with pytest.raises(ConfigError):
            partition(labels, clients, f"labels:{per_client}", seed)
        return
    parts = partition(labels, clients, f"labels:{per_client}", seed)
    assert_partition(parts, len(labels))
    assert all(len(np.unique(labels[part])) == per_client for part in parts)


def test_labels_is_balanced_and_varied():
    """Oracle: 10 equal labels, 100 clients, K=2: 20 holders a label with 5 samples each; random pairs, so far more
    than the 5 that dealing labels in a circle would give."""
    parts = partition(TEN, 100, "labels:2", 0)
    assert {len(part) for part in parts} == {10}
    assert len({tuple(np.unique(TEN[part])) for part in parts}) > 20


def test_labels_minimum_is_refused_rather_than_breaking_k():
    """Oracle: 3 samples of label 0, 97 of label 1, two clients of one label: one must have 3."""
    labels = np.array([0] * 3 + [1] * 97)
    assert sorted(map(len, partition(labels, 2, "labels:1", 0))) == [3, 97]
    with pytest.raises(ConfigError, match=r"labels:1,min=4 leaves a client 3 samples"):
        partition(labels, 2, "labels:1,min=4", 0)


def test_iid_sizes_and_mix():
    """Oracle: 1000 over 7 is 143 or 142; a client's label counts stay near 143/10 (6 standard deviations)."""
    parts = partition(TEN, 7, "iid", 0)
    assert sorted(map(len, parts)) == [142, *[143] * 6]
    counts = np.array([np.bincount(TEN[part], minlength=10) for part in parts])
    assert np.abs(counts - 100 / 7).max() < 6 * np.sqrt(100 / 7)


def test_shards_bound_the_labels_of_a_client():
    """Oracle: 50 shards of 20 samples on label borders that are multiples of 100, so every shard has one label."""
    parts = partition(TEN, 25, "shards:2", 3)
    assert {len(part) for part in parts} == {40}
    assert max(len(np.unique(TEN[part])) for part in parts) <= 2


def test_shards_of_one_sample_each():
    """Oracle: 1000 shards of 1000 samples; one more client is one shard too many."""
    assert {len(part) for part in partition(TEN, 500, "shards:2", 0)} == {2}
    with pytest.raises(ConfigError, match="1002 shards, more than the 1000"):
        partition(TEN, 501, "shards:2", 0)


def test_dirichlet_skew_follows_alpha():
    """Oracle: as alpha grows each client's label proportions approach the overall ones, as it shrinks one label
    takes over; the mean largest label share lies near 0.1 and near 1 respectively."""

    def dominance(alpha):
        parts = partition(np.tile(np.arange(10), 1000), 10, f"dirichlet:{alpha}", 0)
        owned = [np.bincount(np.tile(np.arange(10), 1000)[part]).max() / len(part) for part in parts]
        return np.mean(owned)

    assert dominance(1e6) < 0.105
    assert dominance(0.3) > 0.25
    assert dominance(1e-3) > 0.7


@pytest.mark.parametrize("alpha", ["1e-6", "1e-3", "0.1"])
def test_dirichlet_with_ten_thousand_clients(alpha):
    """Oracle: the definition, where drawing again until nobody is empty would never end."""
    labels = np.arange(50_000) % 10
    parts = partition(labels, 10_000, f"dirichlet:{alpha},min=2", 0)
    assert_partition(parts, 50_000)
    assert min(map(len, parts)) >= 2


def test_labels_with_ten_thousand_clients():
    """Oracle: the definition."""
    labels = np.arange(50_000) % 10
    parts = partition(labels, 10_000, "labels:3", 0)
    assert all(len(np.unique(labels[part])) == 3 for part in parts)


def test_quantity_spread_follows_sigma():
    """Oracle: the standard deviation of the log of the sizes is sigma (200 clients: within 20 %)."""
    sizes = np.array([len(part) for part in partition(np.zeros(1_000_000, int), 200, "quantity:0.8", 0)])
    assert np.std(np.log(sizes)) == pytest.approx(0.8, rel=0.2)
    assert {len(part) for part in partition(TEN, 10, "quantity:0", 0)} == {100}


@pytest.mark.parametrize("spec", [*SPECS, "labels:3"])
def test_a_function_of_the_seed_alone(spec):
    """Oracle: the same call again, with NumPy's global state changed in between; another seed differs."""
    first = partition(TEN, 10, spec, 5)
    np.random.seed(99)
    again, other = partition(TEN, 10, spec, 5), partition(TEN, 10, spec, 6)
    assert all(map(np.array_equal, first, again))
    assert not all(map(np.array_equal, first, other))


def test_the_largest_give():
    """Oracle by hand: sizes 9, 6, 1, 0 with minimum 2 lack 3; 9 -> 6 frees them, so the result is 6, 6, 2, 2."""
    owner = np.repeat([0, 1, 2, 3], [9, 6, 1, 0])
    moved = raise_to_minimum(owner, 4, 2, numpy_generator(0, "test"))
    assert np.bincount(moved).tolist() == [6, 6, 2, 2]
    assert (moved != owner).sum() == 3


@settings(max_examples=80, deadline=None)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=20), minimum=st.integers(1, 10))
def test_levelling_is_minimal(sizes, minimum):
    """Oracle: only what is lacking moves, and the largest size left is what moving one sample at a time gives."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    if len(owner) < len(sizes) * minimum:
        return
    slow = np.array(sizes)
    while slow.min() < minimum:
        slow[slow.argmax()] -= 1
        slow[slow.argmin()] += 1
    fast = raise_to_minimum(owner, len(sizes), minimum, numpy_generator(0, "test"))
    assert sorted(np.bincount(fast, minlength=len(sizes))) == sorted(slow)
    assert (fast != owner).sum() == np.maximum(minimum - np.array(sizes), 0).sum()


def test_too_few_samples():
    """Oracle: the message names option, value and what would be right."""
    with pytest.raises(ConfigError, match=r"--partition iid,min=3 with --clients 4 needs at least 12 .*, not 10"):
        partition(np.zeros(10, int), 4, "iid,min=3", 0)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("dirichlet", "takes 1 argument"),
        ("dirichlet:0", "between"),
        ("dirichlet:x", "must be a number"),
        ("dirchlet:0.3", "did you mean 'dirichlet'"),
        ("iid:3", "takes 0 argument"),
        ("shards:0", "at least 1"),
        ("labels:1.5", "whole number"),
        ("quantity:-1", "between"),
        ("iid,min=0", "at least 1"),
        ("iid,max=3", "no option 'max'"),
        ("iid+shards:2", "starts with a name"),
    ],
)
def test_unreadable_specifications(spec, says):
    """Oracle: the message says what is wrong, before any data are loaded."""
    with pytest.raises(SpecError, match=says):
        check_partition(spec)
