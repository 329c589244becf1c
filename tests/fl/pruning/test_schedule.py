"""The option `--prune-schedule`. Oracles: schedules worked by hand to the round, and the papers' formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.spec import SpecError
from fl.pruning.schedule import changes_at, parse_prune_schedule, pruning_at, sparsity_at
from fl.pruning.spec import Pruning
from tests.compression.cases import EXAMPLES

KINDS = st.sampled_from(["cubic", "linear", "iterative"])
TIMES = st.tuples(st.integers(0, 20), st.integers(1, 40), st.integers(1, 50))

# Rounds 0 to 9, S = 0.8.
BY_HAND = {
    "constant": ([0.8] * 10, [0]),
    "oneshot:0": ([0.8] * 10, [0]),
    "oneshot:4": ([0.0] * 4 + [0.8] * 6, [4]),
    # p = 0, 1/2, 1: S (1 - 1), S (1 - 1/8), S.
    "cubic:2,6,2": ([0, 0, 0, 0, 0.7, 0.7, 0.8, 0.8, 0.8, 0.8], [2, 4, 6]),
    # p = 0, 2/5, 4/5, and END, which is not on the grid of EVERY.
    "linear:1,6,2": ([0, 0, 0, 0.32, 0.32, 0.64, 0.8, 0.8, 0.8, 0.8], [1, 3, 5, 6]),
    "cubic:1,6,2": ([0, 0, 0, 0.6272, 0.6272, 0.7936, 0.8, 0.8, 0.8, 0.8], [1, 3, 5, 6]),
    # An EVERY beyond END leaves BEGIN and END.
    "linear:3,7,100": ([0] * 7 + [0.8] * 3, [3, 7]),
    "linear:0,4,1": ([0, 0.2, 0.4, 0.6, *[0.8] * 6], [0, 1, 2, 3, 4]),
}


@pytest.mark.parametrize("text", BY_HAND)
def test_schedules_by_hand(text: str) -> None:
    """The sparsity of each round, and the rounds that begin with a step."""
    sparsities, steps = BY_HAND[text]
    schedule = parse_prune_schedule(text)
    assert [sparsity_at(schedule, 0.8, r) for r in range(10)] == pytest.approx(sparsities)
    assert [r for r in range(10) if changes_at(schedule, r)] == steps


def test_iterative_by_hand() -> None:
    """Three steps to a density of 1/8: a half each time (20 % of the remaining weights, in the paper's networks)."""
    schedule = parse_prune_schedule("iterative:2,6,2")
    assert [1 - sparsity_at(schedule, 0.875, r) for r in range(8)] == pytest.approx(
        [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    )
    assert [r for r in range(8) if changes_at(schedule, r)] == [2, 4, 6]


@EXAMPLES
@given(KINDS, TIMES, st.floats(0, 1))
def test_formulas_at_every_round(kind: str, times: tuple[int, int, int], final: float) -> None:
    """Steps by listing them, sparsity by the formula at the last step that has been."""
    begin, length, every = times
    end = begin + length
    schedule = parse_prune_schedule(f"{kind}:{begin},{end},{every}")
    steps = sorted({*range(begin, end, every), end})
    assert [r for r in range(end + 5) if changes_at(schedule, r)] == steps
    last = 0.0
    for r in range(end + 5):
        found = sparsity_at(schedule, final, r)
        done = [step for step in steps if step <= r]
        if not done:
            expected = 0.0
        elif kind == "iterative":
            expected = 1 - (1 - final) ** (len(done) / len(steps))
        else:
            p = (done[-1] - begin) / (end - begin)
            expected = final * (p if kind == "linear" else 1 - (1 - p) ** 3)
        assert found == pytest.approx(expected, abs=1e-12)
        assert found >= last
        assert found <= final or found == pytest.approx(final)
        last = found
    assert last == final


def test_overrides_follow_the_schedule() -> None:
    """A layer's own sparsity grows with the common one; nothing else changes."""
    pruning = Pruning("snip", 0.8, scope="layer", by="client", min_density=0.1, protect=(), overrides={"fc": 0.4})
    expected = Pruning("snip", 0.4, scope="layer", by="client", min_density=0.1, protect=(), overrides={"fc": 0.2})
    assert pruning_at(pruning, parse_prune_schedule("linear:0,4,1"), 2) == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("cubik:0,1,1", "did you mean 'cubic'?"),
        ("constant:1", "constant takes 0 argument(s), not 1"),
        ("cubic:0,10", "cubic takes 3 argument(s), not 2"),
        ("oneshot", "oneshot takes 1 argument(s), not 0"),
        ("oneshot:-1", "ROUND must be a whole number of at least 0, not '-1'"),
        ("linear:0,10,0", "EVERY must be a whole number of at least 1, not '0'"),
        ("linear:0.5,10,1", "BEGIN must be a whole number"),
        ("iterative:5,5,1", "END must lie after BEGIN = 5, not at 5; oneshot:5 is one step"),
        ("cubic:0,10,1,power=2", "cubic has no option 'power'"),
    ],
)
def test_refuses_what_cannot_be_meant(text: str, part: str) -> None:
    """One sentence that names the value and what would be right."""
    with pytest.raises(SpecError) as error:
        parse_prune_schedule(text)
    assert part in str(error.value)
