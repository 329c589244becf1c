"""What the benchmarks share: timing, a real update, and tables."""

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fl.models.update import Job


def timed(work: Callable[[], Any], repeats: int = 9) -> float:
    """Median seconds of `work()` after one call that is not counted."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def machine() -> str:
    """The machine in one line."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table that can be pasted into Markdown."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    lines = [f"| {' | '.join(cells)} |" for cells in ([*columns], ["---"] * len(columns), *rows)]
    Console(width=240).print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def real_update(steps: int = 8) -> tuple[Any, Any, Any]:
    """A ResNet-18's global state, its engine, and the update of `steps` local steps on digits, fp32 [n]."""
    from fl.common.config import Config
    from fl.data import load_dataset
    from fl.data.augment import Augment
    from fl.data.normalise import Normaliser
    from fl.models import build_model
    from fl.models.state import ModelState
    from fl.training.engine.plain import PlainEngine
    from fl.training.local_model import WholeModel
    from fl.training.trainer import ClientTrainer

    config = Config(dataset="digits", model="resnet18", local_steps=steps, batch_size=32, lr=0.01)
    data = load_dataset(config, seed=0)
    model = build_model(config, classes=10, in_channels=3, image_size=32, seed=0)
    engine = PlainEngine(config, model, torch.device("cpu"))
    state = ModelState(engine.model, torch.device("cpu"))
    trainer = ClientTrainer(
        config,
        data.train,
        [torch.arange(400)],
        augment=Augment("none"),
        normalise=Normaliser(data.train.x),
        seed=0,
    )
    return state, engine, trainer.train(Job(0, 0, 0), WholeModel(engine, state))
