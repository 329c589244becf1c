"""Which column is the score. Oracle: the documented names."""

import pytest
import torch

from fl.data import Dataset, Split
from fl.output.record import metrics_columns
from fl.training.tasks import ACCURACY, R2, Classification, Regression, Score, Task, make_task, score_of


@pytest.mark.parametrize(
    ("names", "score"),
    [
        (metrics_columns(Classification(3)), ACCURACY),
        (metrics_columns(Regression(0.0, 1.0), clients=True), R2),
        (("rounds", "final_val_r2"), R2),
        (("rounds", "final_val_accuracy"), ACCURACY),
        (("r2", "rounds"), ACCURACY),
        ((), ACCURACY),
    ],
)
def test_readers_find_the_score_by_its_column(names: tuple[str, ...], score: Score) -> None:
    """Of metrics.csv and of summary.json; a run that says nothing goes by accuracy."""
    assert score_of(names) == score


def test_words() -> None:
    """Accuracy in per cent, R2 as it is."""
    assert (ACCURACY.words(0.9731), R2.words(-1.5)) == ("97.31%", "-1.5000")


@pytest.mark.parametrize(("classes", "task"), [(2, Classification), (0, Regression)])
def test_the_data_set_sets_the_task(classes: int, task: type[Task]) -> None:
    """Classes or numbers, with the data set's own names and scale."""
    y = torch.tensor([0, 1]) if classes else torch.tensor([0.5, 1.5])
    names = ("no", "yes") if classes else ()
    split = Split(torch.zeros(2, 3), y)
    made = make_task(Dataset("x", split, split, classes=classes, class_names=names, target=(1.0, 0.5)))
    assert type(made) is task
    if isinstance(made, Classification):
        assert made.class_names == names
    else:
        assert (made.mean, made.deviation) == (1.0, 0.5)
