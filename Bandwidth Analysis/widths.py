"""How good the final model of a run with `--capabilities` is at the size of each client, on validation data.

python "Bandwidth Analysis/widths.py" RUN_FOLDER ...: a table for each run, of a built-in network and data set. A user's
mistake is one line on stderr and exit status 2.
"""

import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fl.common.config import refuse_stored_code, stored_options  # noqa: E402
from fl.common.errors import ConfigError, DataError  # noqa: E402
from fl.common.ranks import join_ranks  # noqa: E402
from fl.pruning.build import make_plan  # noqa: E402
from fl.pruning.nested import NestedSubmodels  # noqa: E402
from fl.run.build import assemble  # noqa: E402
from fl.training.evaluate import evaluate  # noqa: E402


def widths(folder: Path) -> Table:
    """A row for each client, from the smallest part to the largest. ConfigError for a folder that holds no such run."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is no run folder: it has no config.json")
    config = dataclasses.replace(stored_options(folder), recover="none", download=False)
    refuse_stored_code(folder, config, {})
    if config.capabilities == "none":
        raise ConfigError(f"{folder} is a run without --capabilities: all clients held the whole model")
    with join_ranks(config) as ranks:
        worker = assemble(config, ranks)
        if not len(worker.validation):
            raise ConfigError(f"{folder} is a run without validation data (--val-fraction)")
        model, state = worker.engine.model, worker.state
        path = folder / "final_model.safetensors"
        try:
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{path} does not hold the model of a finished run ({reason})") from None
        named = dict(model.named_parameters())
        state.layout.gather([named[name] for name in state.layout.names], state.parameters)
        masks = make_plan(worker, worker.make_trainer())
        if not isinstance(masks, NestedSubmodels):
            raise ConfigError(f"{folder} is a run without --capabilities: all clients held the whole model")
        fractions = masks.fractions
        if fractions.learns:
            fractions.load_state_dict({"values": learnt(folder, len(fractions.values)), "whole": []})
        clients = sorted(range(len(fractions.values)), key=masks.capability)
        masks.begin(0, clients)
        score = worker.task.score
        judged = ("validation loss", f"validation {score.title}")
        table = Table(*("client", "fraction of the channels", "samples", *judged))
        for client in clients:
            sub = masks.submodel(client).sub
            if sub is None:
                raise ConfigError(f"{folder}: its clients trained masks, not smaller models")
            sub.gather_into(sub.model, state.parameters, None if masks.static_batchnorm else state.buffers)
            forward = worker.forward(sub.model)
            metrics = evaluate(forward, worker.validation, ranks, worker.task).metrics
            loss, value = metrics["loss"], metrics[score.name]
            rated = "-" if value is None else score.words(value)
            samples = len(worker.parts[client])
            table.add_row(str(client), f"{masks.capability(client):g}", str(samples), f"{loss:.2f}", rated)
    table.title = folder.name
    return table


def learnt(folder: Path, clients: int) -> list[float]:
    """The capability that each client had when it last trained (`--capabilities online`); 1 where it never did."""
    found = [1.0] * clients
    with open(folder / "clients.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["capability"]:
                found[int(row["client"])] = float(row["capability"])
    return found


def main(argv: Sequence[str]) -> None:
    """The program."""
    try:
        if not argv:
            raise ConfigError("name one run folder or more")
        for name in argv:
            Console().print(widths(Path(name)))
    except (ConfigError, DataError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])
