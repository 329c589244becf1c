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
from fl.training.schedule import step_schedule
from fl.training.trainer import ClientTrainer, is_out_of_memory


class Noting(PlainEngine):
    """Notes how it was started, and the rates of steps."""

    starts: list[tuple[float, int]]
    rates: list[float]

    def start(self, lr: float, done: int = 0) -> None:
        """As in `LocalEngine.start`."""
        self.starts.append((lr, done))
        super().start(lr, done)

    def set_rate(self, lr: float) -> None:
        """As in `LocalEngine.set_rate`."""
        self.rates.append(lr)
        super().set_rate(lr)


@pytest.mark.parametrize("options", [{"local_steps": 2}, {"local_epochs": 2}], ids=["steps", "epochs"])
def test_the_steps_of_earlier_rounds(options: dict[str, Any]) -> None:
    """Clients of 10 samples and 3: as many steps as they would have taken in all earlier rounds, or versions."""
    config = Config(precision="fp32", batch_size=4, lr=0.1, **options)
    data = Split(torch.randn(13, 3), torch.zeros(13, dtype=torch.int64))
    parts = [torch.arange(10), torch.arange(10, 13)]
    cpu = torch.device("cpu")
    engine = Noting(config, nn.Linear(3, 2), cpu)
    engine.starts, engine.rates = [], []
    trainer = ClientTrainer(config, data, parts, augment=Augment("none"), normalise=make_normaliser(data.x), seed=0)
    model = WholeModel(engine, ModelState(engine.model, cpu))
    for client in (0, 1):
        steps = [len(list(trainer.batches(client, round_, engine))) for round_ in range(7)]
        trainer.train(Job(client, 5, 5), model)
        trainer.train(Job(client, 7, 3), model)
        assert engine.starts[-2:] == [(0.1, sum(steps[:5])), (0.1, sum(steps[:3]))]
    assert engine.rates == []


def test_every_step_has_the_rate_of_its_number_in_the_run() -> None:
    """Clients of 10 samples and 3, with 3 steps a round and 1: the run of each follows a schedule of its own length."""
    config = Config(
        precision="fp32", batch_size=4, lr=0.1, rounds=4, local_epochs=1, lr_schedule="cosine:warmup=2,floor=0.1"
    )
    data = Split(torch.randn(13, 3), torch.zeros(13, dtype=torch.int64))
    cpu = torch.device("cpu")
    engine = Noting(config, nn.Linear(3, 2), cpu)
    parts = [torch.arange(10), torch.arange(10, 13)]
    trainer = ClientTrainer(config, data, parts, augment=Augment("none"), normalise=make_normaliser(data.x), seed=0)
    model = WholeModel(engine, ModelState(engine.model, cpu))
    for client, steps in ((0, 3), (1, 1)):
        engine.starts, engine.rates = [], []
        for round_ in range(4):
            trainer.train(Job(client, round_, round_), model)
        rate = step_schedule(config, steps)
        assert rate is not None
        assert engine.rates == [rate(step) for step in range(4 * steps)]


class _Around:
    """Notes when it is entered and left, and how many updates were made by then."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def __enter__(self) -> None:
        self._notes.append("enter")

    def __exit__(self, *error: object) -> None:
        self._notes.append("leave")


def test_clients_train_one_after_another_as_they_are_asked_for() -> None:
    """The second client is not prepared before its update is asked for; each is trained within the context and handed over
    outside it; the updates are those of training them singly. One that fails leaves the context, and the next one
    trains."""
    config = Config(precision="fp32", batch_size=4, lr=0.1, local_steps=2)
    data = Split(torch.randn(13, 3), torch.zeros(13, dtype=torch.int64))
    cpu = torch.device("cpu")
    engine = PlainEngine(config, nn.Linear(3, 2), cpu)
    model = WholeModel(engine, ModelState(engine.model, cpu))
    parts = [torch.arange(10), torch.arange(10, 13)]
    trainer = ClientTrainer(config, data, parts, augment=Augment("none"), normalise=make_normaliser(data.x), seed=0)
    notes: list[str] = []
    no_such_client = 2

    def prepare(client: int) -> Any:
        notes.append(f"client {client}")
        return Job(client, 0, 0), model

    trained = trainer.train_many([0, no_such_client, 1], prepare, _Around(notes))
    assert notes == []
    for at, client in enumerate((0, no_such_client, 1)):
        told, outcome = next(trained)
        assert told == client
        assert notes[3 * at :] == [f"client {client}", "enter", "leave"]
        if client == no_such_client:
            assert isinstance(outcome, IndexError)
        else:
            assert not isinstance(outcome, BaseException)
            job, update = outcome
            assert job == Job(client, 0, 0)
            assert update.values.equal(trainer.train(job, model).values)


class _Hungry(nn.Module):
    """A linear layer with memory for so many samples; `limit` 0: none for any."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.layer, self.limit, self.largest = nn.Linear(3, 2), limit, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.largest = max(self.largest, len(x))
        return self.layer(x)


def _train_hungry(limit: int) -> Any:
    config = Config(precision="fp32", batch_size=4, lr=0.1, local_steps=3)
    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(12, 3, generator=generator), torch.arange(12) % 2)
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    engine = PlainEngine(config, _Hungry(limit), cpu)
    parts = [torch.arange(12)]
    trainer = ClientTrainer(config, data, parts, augment=Augment("none"), normalise=make_normaliser(data.x), seed=0)
    return trainer.train(Job(0, 0, 0), WholeModel(engine, ModelState(engine.model, cpu))), engine.model.largest


def test_a_batch_that_does_not_fit_is_halved_once() -> None:
    """Oracle: the same client with memory enough. With room for 2 of 4 samples the update is the same but for rounding,
    and says so; with room for 1 the error is the client's own."""
    whole, largest = _train_hungry(4)
    assert (whole.halved, largest) == (False, 4)
    halved, largest = _train_hungry(2)
    assert (halved.halved, largest) == (True, 2)
    torch.testing.assert_close(halved.values, whole.values, rtol=1e-5, atol=1e-6)
    assert halved.train_loss == pytest.approx(whole.train_loss)
    with pytest.raises(torch.OutOfMemoryError):
        _train_hungry(1)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("x"), False),
    ],
)
def test_errors_about_memory(error: Exception, expected: bool) -> None:
    """Torch's own, Python's, and the CPU allocator's, which is a plain RuntimeError."""
    assert is_out_of_memory(error) is expected
