"""Oracles: a frozen value, and distinctness over neighbouring arguments."""

import torch

from fl.seeds import derive_seed, numpy_generator, torch_generator


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
