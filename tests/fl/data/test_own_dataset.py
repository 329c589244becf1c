"""A data set by the user's own function. Oracle: the words of the messages, each one sentence and no traceback."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fl.common.config import DataOptions, ModelOptions
from fl.common.errors import ConfigError, DataError
from fl.data import Dataset, Split, load_dataset
from fl.models import build_model
from tests.support import ROOT


def rows(count: int = 6) -> Split:
    return Split(torch.randn(count, 4), torch.arange(count).float())


def made(**changes: Any) -> Dataset:
    """Numbers to predict, and what is wrong with them."""
    return Dataset(**{"name": "x", "train": rows(), "test": rows(), "classes": 0, "target": (2.5, 1.7), **changes})


def of_arrays(folder: Path) -> Dataset:
    """As many would write it at first."""
    train = rows()
    test = Split(np.zeros((6, 4), np.float32), np.zeros(6, np.float32))  # type: ignore[arg-type]
    return made(train=train, test=test)


def of_tuples(folder: Path) -> Dataset:
    """Without Split."""
    return made(train=(torch.zeros(6, 4), torch.zeros(6)))


def of_two(folder: Path, seed: int) -> Dataset:
    """A parameter too many."""
    return made()


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        (
            np.zeros((4, 3, 8, 8), np.uint8),
            torch.zeros(4),
            "samples x must be a torch tensor, not numpy.ndarray; torch.from_n",
        ),
        ([[1.0], [2.0]], torch.zeros(2), "samples x must be a torch tensor, not list; torch.tensor makes one"),
        (
            torch.zeros(4, 2),
            np.zeros(4),
            "targets y must be a torch tensor, not numpy.ndarray; torch.from_numpy makes one",
        ),
        (torch.zeros(4, 2), None, "targets y must be a torch tensor, not NoneType"),
    ],
)
def test_splits_of_other_things(x: Any, y: Any, says: str) -> None:
    """The kind is named, not a shape that looks right."""
    with pytest.raises(DataError, match=f"^{re.escape(says)}"):
        Split(x, y)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test": (torch.zeros(2, 4), torch.zeros(2))}, "x: test must be a Split(x, y), not tuple"),
        ({"train": None}, "x: train must be a Split(x, y), not NoneType"),
        ({"classes": "2"}, "x: classes must be an int, how many there are, or 0 where targets are numbers, not '2'"),
        ({"classes": 2.0}, "x: classes must be an int, how many there are, or 0 where targets are numbers, not 2.0"),
        ({"classes": -1}, "x: classes must be an int, how many there are, or 0 where targets are numbers, not -1"),
        ({"target": 5.0}, "x: target must be two numbers, mean and standard deviation, not 5.0"),
        ({"target": None}, "x: target must be two numbers, mean and standard deviation, not None"),
        ({"target": (1.0, "2")}, "x: target must be two numbers, mean and standard deviation, not (1.0, '2')"),
        ({"class_names": "ab"}, "x: class_names must be a tuple of str, not 'ab'"),
        ({"notes": "made up"}, "x: notes must be a tuple of str, not 'made up'"),
        (
            {"groups": np.zeros(6, np.int64)},
            "x: groups must be a torch tensor, not numpy.ndarray; torch.from_numpy makes",
        ),
    ],
)
def test_parts_of_other_kinds(changes: dict[str, Any], says: str) -> None:
    """What was given is shown, and what would be right."""
    with pytest.raises(DataError, match=f"^{re.escape(says)}"):
        made(**changes)


def test_targets_that_fp32_blurs() -> None:
    """Numbers 0.7 apart beside 1.7e9 are one number in fp32. A target left at (0, 1), equal numbers, and a spread of fp32's
    own size are no reason to refuse."""
    y = torch.tensor([1.7e9 + 0.7 * n for n in range(6)])
    far = Split(torch.randn(6, 4), y)
    with pytest.raises(
        DataError, match=r"^x: the spread 1\.2 of targets y is lost beside 1\.7e\+09 in fp32; subtract a const"
    ):
        made(train=far, test=far, target=(1.7e9, 1.2))
    made(train=far, test=far, target=(0.0, 1.0))
    made(train=far, test=far, target=(0.0, 1e9))
    made(classes=2, train=_labels(), test=_labels(), target=(1.7e9, 1.2))


def _labels() -> Split:
    return Split(torch.randn(6, 4), torch.arange(6) % 2)


@pytest.mark.parametrize(
    ("name", "says", "line"),
    [
        ("of_arrays", "samples x must be a torch tensor, not numpy.ndarray; ", of_arrays.__code__.co_firstlineno + 3),
        ("of_tuples", "x: train must be a Split(x, y), not tuple (", made.__code__.co_firstlineno + 2),
    ],
)
def test_messages_name_the_option_and_the_line(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str, line: int
) -> None:
    """The line tells which of several splits it is; it is that of the call in this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(DataError, match=f"^--dataset test_own_dataset:{name}: {re.escape(says)}") as caught:
        load_dataset(DataOptions(dataset=f"test_own_dataset:{name}"), seed=0)
    assert str(caught.value).endswith(f" (test_own_dataset.py, line {line})")
    assert caught.value.__cause__ is None


def _seeded(function: Callable[[Path, int], Dataset]) -> Callable[[Path], Dataset]:
    @functools.wraps(function)
    def inner(folder: Path) -> Dataset:
        return function(folder, 0)

    return inner


@_seeded
def wrapped(folder: Path, seed: int) -> Dataset:
    """A data set whose decorator gives it its second argument."""
    return made()


def test_a_decorated_function_is_called_as_its_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    """What functools.wraps shows of the function inside does not count."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert load_dataset(DataOptions(dataset="test_own_dataset:wrapped"), seed=0).name == "x"


def test_other_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """How it is called is said before it is."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(
        ConfigError, match=r"^--dataset 'test_own_dataset:of_two' is called as of_two\(folder\), which of_two\("
    ):
        load_dataset(DataOptions(dataset="test_own_dataset:of_two"), seed=0)


def test_the_examples_of_the_page_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/data.md's own model takes the rows of its own table: 13 features, three cultivars. Oracle: the shapes."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), flags=re.DOTALL)
    scripts = {block.splitlines()[0].removeprefix("# "): block for block in blocks}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    exec(compile(scripts["make_table.py"], "make_table.py", "exec"), {})
    (tmp_path / "my_study.py").write_text(scripts["my_study.py"])
    data = load_dataset(DataOptions(dataset="csv:wine.csv,target=cultivar"), seed=0)
    model = build_model(
        ModelOptions(model="my_study:network"),
        classes=data.classes,
        in_channels=data.channels,
        image_size=data.image_size,
        sample_shape=data.sample_shape,
        seed=0,
    )
    assert data.sample_shape == (13,)
    assert model(data.train.x).shape == (len(data.train), 3)


@pytest.mark.parametrize("shape", [(32, 32, 3), (480, 640, 3), (20, 30, 4), (28, 28, 1)])
def test_images_with_colours_last(shape: tuple[int, ...]) -> None:
    """As NumPy and Keras keep them: refused, and the remedy is named; as floats, by the networks that are built in."""
    with pytest.raises(
        DataError, match=r"\[N, C, H, W\], and uint8 .* looks like \[N, H, W, C\]: x.permute\(0, 3, 1, 2\)"
    ):
        Split(torch.zeros(2, *shape, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    Split(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(
        ConfigError, match=r"takes samples \[C, H, W\], and those of --dataset, .*, look like \[H, W, C\]"
    ):
        build_model(
            ModelOptions(model="resnet18"), classes=2, in_channels=32, image_size=32, sample_shape=shape, seed=0
        )


@pytest.mark.parametrize(
    "shape", [(3, 32, 3), (1, 28, 28), (3, 4, 4), (4, 64, 64), (3, 3, 3), (12, 50, 1), (13, 64, 64)]
)
def test_images_that_may_have_channels_first(shape: tuple[int, ...]) -> None:
    """Where the first size may be that of channels, nothing is refused."""
    Split(torch.zeros(2, *shape, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))


def failing(folder: Path) -> Dataset:
    """A file that is not there."""
    return torch.load(folder / "none.pt")


def drawing(folder: Path) -> Dataset:
    """Drawn with two global generators, and torch's default type changed by the way."""
    data = made(train=Split(torch.rand(6, 4) + float(np.random.rand()), torch.arange(6).float()))
    torch.set_default_dtype(torch.float64)
    return data


def test_errors_of_the_function_itself() -> None:
    """Whatever it raises: the option, its words, and the line."""
    with pytest.raises(DataError, match=r"failing fails on data \(FileNotFoundError: .*none.pt.*; test_own_d.*line"):
        load_dataset(DataOptions(dataset=f"{__name__}:failing"), seed=0)


def test_what_the_function_draws_follows_from_the_seed() -> None:
    """Oracles: the same seed again, another; torch's default type and generator as before."""
    state = torch.get_rng_state()
    one, again, other = (load_dataset(DataOptions(dataset=f"{__name__}:drawing"), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.train.x, again.train.x)
    assert not torch.equal(one.train.x, other.train.x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
