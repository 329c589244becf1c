"""A client's training. Oracle: the engine is told what the rounds before make of it, whoever took part in them."""

from typing import Any

import pytest
import torch
from torch import nn

from fl.common.config import Config
from fl.data import Split
from fl.data.augment import Augment
from fl.data.normalise import make_normaliser
from fl.models.state import ModelState
from fl.models.update import Job
from fl.training.engine.plain import PlainEngine
from fl.training.local_model import WholeModel
from fl.training.trainer import ClientTrainer


class Noting(PlainEngine):
    """Notes how it was started."""

    starts: list[tuple[float, int]]

    def start(self, lr: float, done: int = 0) -> None:
        """As in `LocalEngine.start`."""
        self.starts.append((lr, done))
        super().start(lr, done)


@pytest.mark.parametrize("options", [{"local_steps": 2}, {"local_epochs": 2}], ids=["steps", "epochs"])
def test_the_steps_of_earlier_rounds(options: dict[str, Any]) -> None:
    """Clients of 10 samples and 3: as many steps as they would have taken in all earlier rounds, or versions."""
    config = Config(precision="fp32", batch_size=4, lr=0.1, **options)
    data = Split(torch.randn(13, 3), torch.zeros(13, dtype=torch.int64))
    parts = [torch.arange(10), torch.arange(10, 13)]
    cpu = torch.device("cpu")
    engine = Noting(config, nn.Linear(3, 2), cpu)
    engine.starts = []
    trainer = ClientTrainer(config, data, parts, augment=Augment("none"), normalise=make_normaliser(data.x), seed=0)
    model = WholeModel(engine, ModelState(engine.model, cpu))
    for client in (0, 1):
        steps = [len(list(trainer.batches(client, round_, engine))) for round_ in range(7)]
        trainer.train(Job(client, 5, 5), model)
        trainer.train(Job(client, 7, 3), model)
        assert engine.starts[-2:] == [(0.1, sum(steps[:5])), (0.1, sum(steps[:3]))]
