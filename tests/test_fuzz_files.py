"""A fixed slice of `make fuzz`. Oracle: the rule that a reader gives a valid value or one of the project's own errors."""

import random
from pathlib import Path

from tests.fuzz import fuzz_files, fuzz_payloads

FILES = 600


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """30 of every reader; each refuses some, and reads some that are damaged where it does not matter."""
    outcomes = fuzz_files(FILES, random.Random(5), tmp_path)
    assert [each for outcome in outcomes.values() for each in outcome.wrong] == []
    assert sum(outcome.counts.total() for outcome in outcomes.values()) == FILES
    assert all(outcome.counts["refused"] > 5 for outcome in outcomes.values()), outcomes


def test_damaged_masks_and_payloads_are_read_or_refused() -> None:
    """`tests/compression/test_fuzz.py` has many more payloads of codecs; here masks are among them."""
    outcome = fuzz_payloads(1000, random.Random(5))
    assert outcome.wrong == []
    assert min(outcome.counts["valid"], outcome.counts["refused"]) > 50
