"""Oracles: a frozen value, and distinctness over neighbouring arguments."""

import random

import numpy as np
import torch

from fl.common.generators import seeded, torch_generator
from fl.common.seeds import derive_seed, numpy_generator


def test_frozen_value():
    """Oracle: BLAKE2b of the text "(1, 'order', 2, 3)", first eight bytes, halved; recorded once."""
    assert derive_seed(1, "order", 2, 3) == 5415835717526382588


def test_neighbours_differ_and_fit():
    """Oracle: all distinct, all in [0, 2^63)."""
    seeds = {derive_seed(s, p, *k) for s in range(9) for p in "ab" for k in [(), (0,), (1,), (0, 1), (1, 0), (10,)]}
    assert len(seeds) == 9 * 2 * 6
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_replay_and_leave_global_state_alone():
    """Oracle: the same arguments again."""
    state = torch.get_rng_state()
    assert numpy_generator(0, "x", 1).integers(2**60) == numpy_generator(0, "x", 1).integers(2**60)
    assert torch.rand(3, generator=torch_generator(0, "x")).equal(torch.rand(3, generator=torch_generator(0, "x")))
    assert torch.get_rng_state().equal(state)


def drawn() -> tuple[float, ...]:
    """One number of each global generator."""
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_global_generators_are_seeded_and_given_back() -> None:
    """Oracles: the same arguments again, others, and what comes next without any of it; an error changes nothing."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    expected = drawn()
    torch.set_rng_state(states[0]), np.random.set_state(states[1]), random.setstate(states[2])
    found = []
    for key in (1, 1, 2):
        with seeded(0, "x", key):
            found.append(drawn())
    try:
        with seeded(0, "x", 3):
            drawn()
            raise ValueError
    except ValueError:
        pass
    assert found[0] == found[1]
    assert all(one != other for one, other in zip(found[1], found[2], strict=True))
    assert drawn() == expected
