"""The option `--prune`. Oracle: the grammar in the module's docstring, written out as expected options."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression.spec import SpecError
from fl.pruning.spec import METHODS, Pruning, parse_pruning
from tests.compression.cases import EXAMPLES


@pytest.mark.parametrize(
    ("text", "pruning"),
    [
        ("magnitude:0.9", Pruning("magnitude", 0.9)),
        ("random:0", Pruning("random", 0.0)),
        ("snip:1", Pruning("snip", 1.0)),
        (
            "gradient:0.8,scope=layer,by=client,min=0.2",
            Pruning("gradient", 0.8, scope="layer", by="client", min_density=0.2),
        ),
        ("magnitude:0.5,by=after,protect=none", Pruning("magnitude", 0.5, by="after", protect=())),
        ("magnitude:0.5,protect=auto", Pruning("magnitude", 0.5)),
        ("magnitude:0.5,protect=auto+layer1", Pruning("magnitude", 0.5, protect=("auto", "layer1"))),
        (
            "magnitude:0.5,protect=fc.weight+layer1.0.conv1,layer4=0.9,layer2.0.conv1.weight=0",
            Pruning(
                "magnitude",
                0.5,
                protect=("fc.weight", "layer1.0.conv1"),
                overrides={"layer4": 0.9, "layer2.0.conv1.weight": 0.0},
            ),
        ),
        ("magnitude:0.9,rewind", Pruning("magnitude", 0.9, rewind=True)),
        ("structured:0.4,rewind,mean=cohort", Pruning("structured", 0.4, mean="cohort", rewind=True)),
        ("filters:0.4,mean=holders,rewind", Pruning("filters", 0.4, rewind=True)),
        ("width:0.5,mean=cohort", Pruning("width", 0.5, mean="cohort")),
        ("magnitude:0.9,min=0.1", Pruning("magnitude", 0.9, min_density=0.1)),
        ("magnitude:0.9,0.conv=0.5", Pruning("magnitude", 0.9, overrides={"0.conv": 0.5})),
    ],
)
def test_reads_the_grammar(text: str, pruning: Pruning) -> None:
    """Oracle: the options by hand."""
    assert parse_pruning(text) == pruning


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("magnitud:0.9", "did you mean 'magnitude'?"),
        ("topk:0.9", "known: magnitude, random, filters, snip, gradient"),
        ("magnitude", "magnitude takes one sparsity, as in magnitude:0.9"),
        ("magnitude:0.9,0.8", "magnitude takes one sparsity"),
        ("magnitude:90%", "did you mean 0.9?"),
        ("magnitude:90", "the sparsity must lie between 0 and 1, not 90"),
        ("magnitude:nan", "must be a number"),
        ("magnitude:0.9,rewnd", "did you mean 'rewind', not 'rewnd'?"),
        ("magnitude:0.9,rewind,rewind", "'rewind' is given twice"),
        ("magnitude:0.9,rewind=yes", "'rewind' takes no value"),
        ("width:0.5,rewind", "width has no option 'rewind'"),
        ("prunefl:0.5,rewind", "prunefl has no option 'rewind'"),
        ("prunefl:0.5,mean=cohort", "prunefl has no option 'mean'"),
        ("magnitude:0.9,mean=cohorts", "mean cannot be 'cohorts'; did you mean 'cohort'?"),
        ("rewind", "there is no pruning method 'rewind'"),
        ("magnitude:0.9,scope=layers", "scope cannot be 'layers'; did you mean 'layer'?"),
        ("magnitude:0.9,by=clients", "by cannot be 'clients'; did you mean 'client'?"),
        ("magnitude:0.9,scop=layer", "there is no option 'scop'; did you mean 'scope'?"),
        ("magnitude:0.9,fc=half", "fc must be a number, not 'half'"),
        ("magnitude:0.9,fc=1.5", "fc must lie between 0 and 1"),
        ("magnitude:0.9,min=2", "min must lie between 0 and 1"),
        ("magnitude:0.9,min=0.2", "the sparsity must be at most 0.8 where min=0.2, not 0.9"),
        ("magnitude:0.5,min=0.2,fc=0.9", "fc must be at most 0.8 where min=0.2, not 0.9"),
        ("magnitude:0.5,protect=none+fc", "protect must be auto, none, or layers joined by +"),
        ("magnitude:0.5,protect=fc++conv", "protect must be auto, none, or layers joined by +"),
        ("magnitude:0.5,protect=fc,fc=0.2", "'fc' is protected and has a sparsity of its own"),
        ("magnitude:0.5,fc=0.2,fc=0.3", "option 'fc' is given twice"),
    ],
)
def test_refuses_what_cannot_be_meant(text: str, part: str) -> None:
    """One sentence that names the value and what would be right."""
    with pytest.raises(SpecError) as error:
        parse_pruning(text)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@EXAMPLES
@given(st.lists(st.sampled_from([*METHODS, *":,=+", "0.5", "1", "scope", "layer", "min", "protect", "fc", " "])))
def test_reads_or_refuses_any_text(words: list[str]) -> None:
    """Nothing but SpecError is ever raised."""
    with contextlib.suppress(SpecError):
        parse_pruning("".join(words))
