"""What is said of a codec by its specification alone is true of the codec."""

import pytest

from compression import make_codec
from compression.grammar import SELECTOR_NAMES, STAGE_NAMES, VALUE_NAMES, read_codec
from compression.spec import SpecError

_SPECS = [
    "none",
    "bf16+zstd",
    *(f"{name}:0.25{tail}" for name in SELECTOR_NAMES for tail in ("", "+log3+zstd")),
    *(f"topk:0.01,scope=layer+{name}" for name in VALUE_NAMES if name != "qsgd"),
    "cost:0.5,linear=2.5+qsgd:7",
    "powersgd:4",
    "dct:64+topk:0.1,chunk=64+sign+zstd",
    "dct:8",
    "powersgd:2+bf16+zstd",
]


@pytest.mark.parametrize("spec", _SPECS)
def test_what_is_read_is_what_is_made(spec: str) -> None:
    """Oracle: the properties of the codec."""
    read, made = read_codec(spec), make_codec(spec)
    for name in ("spec", "sparse", "warm", "by_shape", "density"):
        assert getattr(read, name) == getattr(made, name), name


def test_the_list_has_every_stage() -> None:
    """So no stage of the grammar goes without a codec."""
    assert {word.split(":")[0] for spec in _SPECS for word in spec.split("+")} == set(STAGE_NAMES)


@pytest.mark.parametrize(
    "spec", ["topk", "topk:0", "randk:2", "qsgd:0", "qsgd:128", "int8:3", "cost:0.1,conv=1e-4", "x:1"]
)
def test_what_is_wrong_is_refused_alike(spec: str) -> None:
    """Whether it is only read or made."""
    for act in (read_codec, make_codec):
        with pytest.raises(SpecError, match=spec.partition("+")[0].split(":")[0]):
            act(spec)
