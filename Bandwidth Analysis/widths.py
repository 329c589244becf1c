"""How good the final model of a run with `--capabilities` is at the size of each client, on validation data.

python "Bandwidth Analysis/widths.py" RUN_FOLDER ...: a table for each run.
"""

import dataclasses
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fl.assemble import assemble  # noqa: E402
from fl.errors import ConfigError  # noqa: E402
from fl.evaluate import evaluate  # noqa: E402
from fl.folder import stored_options  # noqa: E402
from fl.pruning.build import make_masks  # noqa: E402
from fl.ranks import join_ranks  # noqa: E402


def widths(folder: Path) -> Table:
    """A row for each client, from the smallest part to the largest, and one for the whole model."""
    config = dataclasses.replace(stored_options(folder), recover="none")
    with join_ranks(config) as ranks:
        federation = assemble(config, ranks)
        model, state = federation.engine.model, federation.state
        model.load_state_dict(load_file(folder / "final_model.safetensors"))
        named = dict(model.named_parameters())
        state.layout.gather([named[name] for name in state.layout.names], state.parameters)
        masks = make_masks(federation, federation.make_trainer())
        if masks is None or masks.able is None:
            raise ConfigError(f"{folder} is a run without --capabilities: all clients held the whole model")
        clients = sorted(range(len(masks.able)), key=masks.capability)
        masks.begin(0, clients)
        table = Table(*("client", "fraction of the channels", "samples", "validation loss", "validation accuracy"))
        for client in clients:
            sub = masks.part(client).sub
            if sub is None:
                raise ConfigError(f"{folder}: its clients trained masks, not smaller models")
            sub.gather_into(sub.model, state.parameters, None if masks.static_statistics else state.buffers)
            forward = federation.forward(sub.model)
            metrics = evaluate(forward, federation.validation, ranks, federation.task).metrics
            loss, accuracy = metrics["loss"], metrics["accuracy"]
            samples = len(federation.parts[client])
            table.add_row(str(client), f"{masks.capability(client):g}", str(samples), f"{loss:.2f}", f"{accuracy:.1%}")
    table.title = folder.name
    return table


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Console().print(widths(Path(name)))
