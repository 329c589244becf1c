"""What an evaluation leaves behind. Oracles: the definition, counts by hand."""

from pathlib import Path

import pytest
import torch

from fl.common.errors import DataError
from fl.data import Split
from fl.output.predictions import CONFUSION, PREDICTIONS, read_predictions, write_predictions
from fl.output.record import metrics_columns
from fl.training.evaluate import Evaluation, Evaluations
from fl.training.tasks import Classification, Regression

TASK = Classification(3, ("a", "b, c", "d"))
TEST = Split(torch.zeros(4, 2), torch.tensor([0, 1, 1, 2]))
SAID = Evaluation({"loss": 0.5, "accuracy": 0.75, "macro_f1": 0.7}, torch.tensor([0.0, 1.0, 2.0, 2.0]).double())


def test_columns_are_those_of_the_table() -> None:
    """Every column that is judged has a cell, empty where nothing was evaluated; the score decides on validation alone."""
    judged = Evaluations(None, SAID)
    columns = judged.columns(TASK)
    assert [name for name in metrics_columns(TASK) if name in columns] == list(columns)
    assert (columns["val_accuracy"], columns["test_accuracy"], columns["test_loss"]) == (None, 0.75, 0.5)
    assert judged.score(TASK) is None
    assert Evaluations(SAID).score(TASK) == 0.75
    assert judged.rows(3) == []


def test_a_confusion_matrix_is_read_back(tmp_path: Path) -> None:
    """One of two `b, c` was taken for `d`; names keep their commas."""
    path = write_predictions(tmp_path, TASK, TEST, SAID)
    assert path == tmp_path / CONFUSION
    assert read_predictions(path) == (["a", "b, c", "d"], [[1, 0, 0], [0, 1, 1], [0, 0, 1]])


def test_more_classes_than_a_picture_holds(tmp_path: Path) -> None:
    """Over a hundred classes have no file."""
    assert write_predictions(tmp_path, Classification(101), TEST, SAID) is None
    assert not (tmp_path / CONFUSION).exists()


def test_numbers_are_read_back_exactly(tmp_path: Path) -> None:
    """A third survives the file; no file is no figure."""
    path, y = tmp_path / PREDICTIONS, torch.tensor([1.5, -2.0])
    assert read_predictions(path) is None
    said = Evaluation({}, torch.tensor([1 / 3, 2.0], dtype=torch.float64))
    assert write_predictions(tmp_path, Regression(0.0, 1.0), Split(torch.zeros(2, 2), y), said) == path
    assert read_predictions(path) == (["target", "prediction"], [[1.5, 1 / 3], [-2.0, 2.0]])


@pytest.mark.parametrize("text", ["class,a,b\na,1,2\nb,1", "class,a\na,x\n", "class,a\n", ""])
def test_malformed_files_are_named(tmp_path: Path, text: str) -> None:
    """Oracle: the house rule that an error says which file."""
    (tmp_path / CONFUSION).write_text(text)
    with pytest.raises(DataError, match=CONFUSION):
        read_predictions(tmp_path / CONFUSION)
