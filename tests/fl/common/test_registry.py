"""Names and the classes that they stand for, by a registry of two."""

from collections import OrderedDict

import pytest

from compression.spec import SpecError
from fl.common.registry import Entry, Registry


def test_classes_are_found_by_their_names_and_a_misspelt_one_is_mended() -> None:
    """By its place, or given as it is; oracle for the sentence: `spec.nearest`."""
    fruit = Registry("fruit", {"apple": Entry("collections:OrderedDict"), "pear": Entry(int)})
    assert list(fruit) == ["apple", "pear"]
    assert fruit["apple"].load() is OrderedDict
    assert fruit["pear"].load() is int
    with pytest.raises(SpecError, match="'aple' is no fruit; did you mean 'apple'"):
        fruit["aple"]
