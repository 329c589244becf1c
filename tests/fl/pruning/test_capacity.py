"""Capabilities. Oracles: values by hand; that a draw does not depend on the other clients."""

from pathlib import Path

import pytest

from compression.spec import SpecError
from fl.common.errors import ConfigError
from fl.pruning.capacity import capabilities, parse_capabilities


def of(text: str, clients: int, seed: int = 0) -> tuple[float, ...]:
    return capabilities(text, clients, seed)


def test_none_is_the_whole_model() -> None:
    """1 for all."""
    assert of("none", 3) == (1.0, 1.0, 1.0)


def test_groups_in_the_order_of_clients() -> None:
    """PR-FL's: two, two, two and four."""
    assert of("groups:1.0x2+0.6x2+0.3x2+0.1x4", 10) == (1.0, 1.0, 0.6, 0.6, 0.3, 0.3, 0.1, 0.1, 0.1, 0.1)
    assert of("groups:0.5x3", 3) == (0.5, 0.5, 0.5)
    assert of("groups:.5x1 + 1x1", 2) == (0.5, 1.0)


def test_groups_must_add_up() -> None:
    """To --clients."""
    with pytest.raises(ConfigError) as error:
        of("groups:1.0x2+0.6x2", 5)
    assert (
        str(error.value)
        == "--capabilities groups:1.0x2+0.6x2: the groups have 4 clients; they must add up to --clients 5"
    )


def test_drawn_by_seed_and_client() -> None:
    """Hundredths in the range, spread over it; one more client changes no other; another seed changes most."""
    drawn = of("uniform:0.2,0.8", 500, seed=1)
    assert drawn[:100] == of("uniform:0.2,0.8", 100, seed=1)
    assert all(0.2 <= value <= 0.8 and value == round(value, 2) for value in drawn)
    assert min(drawn) < 0.25
    assert max(drawn) > 0.75
    assert sum(drawn) / 500 == pytest.approx(0.5, abs=0.03)
    assert sum(a == b for a, b in zip(drawn, of("uniform:0.2,0.8", 500, seed=2), strict=True)) < 50


def test_rounding_stays_in_the_range() -> None:
    """0.333 and 0.336 are no hundredths; LOW = HIGH leaves nothing to draw."""
    assert all(0.333 <= value <= 0.336 for value in of("uniform:0.333,0.336", 50))
    assert of("uniform:0.125,0.125", 2) == (0.125, 0.125)
    assert all(value > 0 for value in of("uniform:0.01,0.02", 50))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("uniforn:0.2,1", "not 'uniforn'; did you mean 'uniform'?"),
        ("0.5", "a specification starts with a name"),
        ("caps.txt", "a specification starts with a name"),
        ("none:1", "none takes 0 argument(s), not 1"),
        ("uniform:0.5", "uniform takes 2 argument(s), not 1"),
        ("uniform:0,1", "LOW must lie between 0.01 and 1, not 0"),
        ("uniform:0.2,1.2", "HIGH must lie between 0.01 and 1, not 1.2"),
        ("uniform:20%,1", "LOW must be a number, not '20%'; did you mean 0.2?"),
        ("uniform:0.5,0.2", "LOW must be at most HIGH = 0.2, not 0.5"),
        ("groups:1.0x2,0.5x2", "groups takes 1 argument(s), not 2"),
        ("groups:1.0x2+0.6", "as in 0.6x2, not '0.6'"),
        ("groups:1.0x2+0x2", "as in 0.6x2, not '0x2'"),
        ("groups:1.5x2", "as in 0.6x2, not '1.5x2'"),
        ("groups:0.5x0", "as in 0.6x2, not '0.5x0'"),
        ("groups:0.5x2+", "as in 0.6x2, not ''"),
    ],
)
def test_wrong_texts_are_refused(text: str, part: str) -> None:
    """Before anything is drawn or read."""
    with pytest.raises(SpecError) as error:
        parse_capabilities(text)
    assert part in str(error.value)


def test_file(tmp_path: Path) -> None:
    """In any order, with spaces, empty lines and the mark that spreadsheets put in front."""
    path = tmp_path / "caps.csv"
    path.write_text("\ufeffclient,capability\n2, 0.25\n\n0,1\n1,0.6\n", encoding="utf-8")
    assert of(str(path), 3) == (1.0, 0.6, 0.25)


@pytest.mark.parametrize(
    ("contents", "part"),
    [
        ("", "line 1: the columns must be client,capability, not ''"),
        ("capability,client\n", "line 1: the columns must be client,capability, not 'capability,client'"),
        ("client,capability\n0,1\n1,1.5\n", "line 3: capability must be above 0 and at most 1, not '1.5'"),
        ("client,capability\n0,nan\n", "line 2: capability must be above 0 and at most 1, not 'nan'"),
        ("client,capability\n0,half\n", "line 2: capability must be above 0 and at most 1, not 'half'"),
        ("client,capability\n0,0\n", "line 2: capability must be above 0 and at most 1, not '0'"),
        ("client,capability\n2,1\n", "line 2: client must be a number from 0 to 1, not '2'"),
        ("client,capability\n-1,1\n", "line 2: client must be a number from 0 to 1, not '-1'"),
        ("client,capability\n0,1\n0,1\n", "line 3: client 0 is there twice"),
        ("client,capability\n0,1,2\n", "line 2: a line is client,capability, not '0,1,2'"),
        ("client,capability\n0,1\n", "client 1 is missing; each of the 2 clients needs a line"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, contents: str, part: str) -> None:
    """With the option, the file, the line and the value."""
    path = tmp_path / "caps.csv"
    path.write_text(contents)
    with pytest.raises(ConfigError) as error:
        of(str(path), 2)
    assert str(error.value).startswith(f"--capabilities {path}")
    assert part in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, or no text."""
    path = tmp_path / "caps.csv"
    with pytest.raises(ConfigError, match="not a readable csv file"):
        of(str(path), 2)
    path.write_bytes(b"client,capability\n\0,1\n")
    with pytest.raises(ConfigError, match="not a readable csv file"):
        of(str(path), 2)
