"""Recovery. Oracle: sequences by hand."""

import json
import math
from collections.abc import Sequence

import pytest

from compression.spec import SpecError
from fl.pruning.capacity import Recovery, density_at, parse_recovery


def grown(recovery: Recovery, accuracies: Sequence[float | None], first: int = 0) -> list[int]:
    """The rounds, counted from `first`, after which densities grow."""
    return [round_ for round_, value in enumerate(accuracies, first) if recovery.observe(round_, value)]


def test_none_never_grows() -> None:
    """Whatever the accuracy."""
    recovery = Recovery("none")
    assert grown(recovery, [0.5] * 10) == []
    assert recovery.stage == 0


def test_schedule_to_the_round() -> None:
    """Rounds 3, 5, 7 and 9 are the first with a larger density: it grows after the rounds before them."""
    recovery = Recovery("schedule:3,2")
    assert grown(recovery, [None] * 10) == [2, 4, 6, 8]
    assert recovery.stage == 4
    assert grown(Recovery("schedule:1,100"), [None] * 50) == [0]


def test_plateau_waits_and_starts_anew() -> None:
    """Patience 2: best 0.5, then 0.5 and 0.4 are two in vain; after growing two more; 0.6 is better and starts the wait."""
    recovery = Recovery("plateau:2")
    assert grown(recovery, [0.5, 0.5, 0.4, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6]) == [2, 4, 8]
    assert recovery.stage == 3


def test_plateau_counts_evaluations_only() -> None:
    """Rounds without one neither wait nor start anew."""
    assert grown(Recovery("plateau:2"), [0.5, None, 0.5, None, None, 0.5, None]) == [5]


def test_improvement_must_be_more_than_delta() -> None:
    """By more than 0.001, or DELTA; small steps count together, from the last best."""
    assert grown(Recovery("plateau:1"), [0.5, 0.5005, 0.502, 0.502]) == [1, 3]
    assert grown(Recovery("plateau:3,0.125"), [0.25, 0.3125, 0.375, 0.5, 0.5, 0.625, 0.625]) == [6]
    assert grown(Recovery("plateau:1,0"), [0.5, 0.5001, 0.5002, 0.5002]) == [3]


def test_an_accuracy_that_is_no_number_is_no_improvement() -> None:
    """NaN never becomes the best."""
    assert grown(Recovery("plateau:2"), [math.nan, math.nan, 0.1, 0.2]) == [1]


@pytest.mark.parametrize("text", ["plateau:2", "plateau:3,0.01", "schedule:2,3", "none"])
def test_resumes_exactly(text: str) -> None:
    """Stopped after any round and continued from its state, through JSON: the same rounds as without."""
    accuracies = [0.3, 0.3, 0.31, 0.31, None, 0.3, 0.5, 0.5, 0.5, 0.5]
    whole = Recovery(text)
    expected = grown(whole, accuracies)
    for stop in range(len(accuracies)):
        before, after = Recovery(text), Recovery(text)
        seen = grown(before, accuracies[:stop])
        after.load_state_dict(json.loads(json.dumps(before.state_dict())))
        assert seen + grown(after, accuracies[stop:], stop) == expected
        assert after.stage == whole.stage


def test_density_climbs_the_levels() -> None:
    """The stage-th level above the capability, and 1 in the end."""
    assert [density_at(0.3, stage) for stage in range(5)] == [0.3, 0.6, 1.0, 1.0, 1.0]
    assert [density_at(0.25, stage) for stage in range(4)] == [0.25, 0.3, 0.6, 1.0]
    assert [density_at(0.05, stage) for stage in range(6)] == [0.05, 0.1, 0.3, 0.6, 1.0, 1.0]
    assert [density_at(1.0, stage) for stage in range(3)] == [1.0, 1.0, 1.0]
    assert [density_at(0.3, stage, levels=(0.5,)) for stage in range(3)] == [0.3, 0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("plato:3", "there is no recovery 'plato'; did you mean 'plateau'?"),
        ("plateau", "plateau takes 1 argument(s), not 0"),
        ("plateau:0", "PATIENCE must be a whole number of at least 1, not '0'"),
        ("plateau:2,2", "DELTA must lie between 0 and 1, not 2"),
        ("plateau:2,0.1,3", "plateau takes 1 argument(s), not 3"),
        ("schedule:3", "schedule takes 2 argument(s), not 1"),
        ("schedule:0,2", "BEGIN must be a whole number of at least 1, not '0'"),
        ("schedule:3,0", "EVERY must be a whole number of at least 1, not '0'"),
        ("none:1", "none takes 0 argument(s), not 1"),
    ],
)
def test_wrong_texts_are_refused(text: str, part: str) -> None:
    """One sentence, with the nearest word."""
    with pytest.raises(SpecError) as error:
        parse_recovery(text)
    assert part in str(error.value)
