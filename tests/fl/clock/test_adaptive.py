"""Fractions that are learnt from times, by hand."""

import json

from fl.clock.adaptive import AdaptiveFractions, Change, Fractions, Time


def test_the_fastest_sets_what_all_may_take() -> None:
    """2 and 8 seconds for all of it: a quarter of the weights, or half of the channels; never below the floor."""
    for power, share in ((1, 0.25), (2, 0.5)):
        shares = AdaptiveFractions(3, floor=0.1, power=power)
        assert shares.observe([Time(0, 2.0, 1.0), Time(1, 8.0, 1.0)]) == [Change(1, 1.0, share)]
        assert list(shares) == [1.0, share, 1.0]
    shares = AdaptiveFractions(2, floor=0.3, power=1)
    assert shares.observe([Time(0, 1.0, 1.0), Time(1, 100.0, 1.0)]) == [Change(1, 1.0, 0.3)]


def test_estimates_are_averaged_and_small_changes_left_out() -> None:
    """A quarter took 2 s: 8 s for all, as before. Then 2.2 s: (8 + 8.8) / 2 = 8.4, 0.238, which is within a tenth of 0.25.
    Then 4 s: (8.4 + 16) / 2 = 12.2, 0.163."""
    shares = AdaptiveFractions(2, floor=0.01, power=1)
    shares.observe([Time(0, 2.0, 1.0), Time(1, 8.0, 1.0)])
    assert shares.observe([Time(1, 2.0, 0.25)]) == []
    assert shares.observe([Time(1, 2.2, 0.25)]) == []
    assert shares.observe([Time(1, 4.0, 0.25)]) == [Change(1, 0.25, 0.16)]


def test_a_client_that_became_faster_grows_again() -> None:
    """Both ways, and its state goes through JSON."""
    shares = AdaptiveFractions(2, floor=0.01, power=1)
    shares.observe([Time(0, 2.0, 1.0), Time(1, 8.0, 1.0)])
    other = AdaptiveFractions(2, floor=0.01, power=1)
    other.load_state_dict(json.loads(json.dumps(shares.state_dict())))
    for each in (shares, other):
        assert each.observe([Time(1, 0.5, 0.25)]) == [Change(1, 0.25, 0.4)]


def test_what_is_given_stays() -> None:
    """And times of no length, where nothing takes time, change nothing."""
    assert Fractions([1.0, 0.5]).observe([Time(0, 1.0, 1.0), Time(1, 9.0, 0.5)]) == []
    assert AdaptiveFractions(2, floor=0.1, power=2).observe([Time(0, 0.0, 1.0), Time(1, 0.0, 1.0)]) == []


def test_who_was_given_up_on_needs_at_least_the_time_it_had() -> None:
    """Nothing known but 8 s in vain: a quarter. Then 4 s in vain, which says nothing new; a time of nothing neither."""
    shares = AdaptiveFractions(2, floor=0.01, power=1)
    assert shares.observe([Time(0, 2.0, 1.0)], late=[Time(1, 8.0, 1.0)]) == [Change(1, 1.0, 0.25)]
    assert shares.observe([Time(0, 0.0, 1.0)], late=[Time(1, 1.0, 0.25)]) == []
    assert list(shares) == [1.0, 0.25]
