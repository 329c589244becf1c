"""The server of a run, on Flower's SuperLink."""

from collections.abc import Mapping
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from compression.errors import NonFiniteError
from fl.common.errors import ConfigError, DataError, RoundError
from fl.common.terminal import end_with_mistake, say
from fl.run.loop import run
from fl.training.worker import Worker

from ..make import make_rounds
from ..options import read_table
from ..rounds import SiteRounds
from .engine import FlowerEngine

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """All of a run; its folder is on this machine. The options are the app's configuration."""
    try:
        serve(grid, context.run_config)
    except (ConfigError, DataError, RoundError, NonFiniteError) as error:
        end_with_mistake(error)


def serve(grid: Grid, table: Mapping[str, Any]) -> dict[str, Any]:
    """Run with these options; returns what summary.json holds. Raises as `fl.run.loop.run`."""
    config, explicit = read_table(table)
    engine = FlowerEngine(grid, config.hang_timeout)
    made: list[SiteRounds] = []

    def make(worker: Worker) -> SiteRounds:
        made.append(make_rounds(worker, engine))
        return made[0]

    summary = run(config, explicit=explicit, make_rounds=make, ask_sites=engine.survey)
    for rejection in made[0].deliver():
        say(f"client {rejection.client} has not got the final model: {rejection.reason}")
    return summary
