"""The option `--partition`: sharing the training samples out among the clients, every sample to exactly one, by seed alone.

A specification is `NAME[:ARG][,min=N]`; a client that would hold fewer than N samples (default 1) gets the rest from
the largest clients. In `natural` the data themselves say who holds what: groups of at least N training samples (default 2)
are drawn when they are loaded. In `sites` each client's machine has its own. `share` does it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from compression.spec import SpecError, Stage, nearest, parse_stage

__all__ = ["BY_LABEL", "NATURAL", "PARTITIONS", "SITES", "Partition", "check_partition"]

NATURAL = "natural"
"""The partition by which every client is one group of the data set's own."""

SITES = "sites"
"""The partition by which every client has data of its own, on a machine of its own: nothing is shared out."""

BY_LABEL = ("dirichlet", "shards", "labels")
"""The partitions that go by the classes of the samples."""

PARTITIONS: dict[str, Callable[[Stage], float] | None] = {
    "iid": None,
    "contiguous": None,
    "dirichlet": lambda stage: stage.number(0, 1e-6, 1e6, "the concentration"),
    "shards": lambda stage: stage.integer(0, 1, "the number of shards a client"),
    "labels": lambda stage: stage.integer(0, 1, "the number of labels a client"),
    "quantity": lambda stage: stage.number(0, 0, 10, "the standard deviation of log size"),
    NATURAL: None,
    SITES: None,
}
"""How the argument of each is read, None for those without."""


@dataclass(frozen=True)
class Partition:
    """A specification that has been read: its argument, None if it has none, and the fewest samples a client may hold."""

    stage: Stage
    argument: float | None
    minimum: int


def check_partition(spec: str) -> Partition:
    """Read a specification before any data are loaded; SpecError says what is wrong with it."""
    stage = parse_stage(spec)
    if stage.name not in PARTITIONS:
        raise SpecError(f"'{spec}': there is no partition '{stage.name}'{nearest(stage.name, PARTITIONS)}")
    read = PARTITIONS[stage.name]
    stage.expect(1 if read else 0, ["min"])
    argument = read(stage) if read else None
    usual = 2 if stage.name == NATURAL else 1  # one to hold out, one to train on
    minimum = stage.integer("min", 1, "min, the fewest samples of a client,") if "min" in stage.options else usual
    return Partition(stage, argument, minimum)
