"""Names and their classes, by a registry of two."""

import pytest

from compression.spec import SpecError
from fl.common.registry import Registry


def test_classes_are_found_by_their_names_and_a_misspelt_one_is_mended() -> None:
    """Names in the order of registration; the class itself comes back from the decorator; oracle: `spec.nearest`."""
    fruit = Registry[type]("fruit")
    apple = fruit.register("apple")(type("Apple", (), {}))
    fruit.register("pear")(int)
    assert list(fruit) == ["apple", "pear"]
    assert fruit["apple"] is apple
    assert apple.__name__ == "Apple"
    with pytest.raises(SpecError, match="'aple' is no fruit; did you mean 'apple'"):
        fruit["aple"]
