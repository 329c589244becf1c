"""A site: one client on a machine of its own, which has a copy of the global model and keeps what the client keeps.

A site's folder outlives its process, which may be a new one for every job. It holds a copy of the global model, the
client's state that counts, the one that its last job made and those of the server's checkpoints, and a table of these,
which is written last.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from compression import NonFiniteError, PayloadError
from compression.codec import BUFFERS
from fl.comm.message import Message, Rejection, take_model
from fl.common.config import Config
from fl.common.errors import ConfigError, DataError, RoundError, in_one_line
from fl.common.files import read_json, write_json
from fl.common.generators import kept_generators
from fl.common.paths import expand_paths
from fl.common.program import program
from fl.common.ranks import join_ranks
from fl.common.surroundings import on_cpu_by_default, replaying, usual_surroundings
from fl.common.tensor_files import join_state, save_tensors, split_state, write_tensors
from fl.data import is_by_site
from fl.data.schema import read_schema
from fl.output.stored import Stored, client_file, load_tensors
from fl.rounds.sampling import make_sampler
from fl.rounds.sync import SyncRounds
from fl.run.build import Site, assemble
from fl.run.checks import check_options, resolve
from fl.training.engine.deepspeed_config import reconcile

from .protocol import WHOLE, Delivered, Lost, Outcome, SiteJob

T = TypeVar("T")

_TABLE = "site.json"
_FINAL = "final_model.safetensors"


def do(job: SiteJob, client: int, config: Config, explicit: frozenset[str], folder: Path) -> Outcome:
    """Do a job for `client`, the one of this site; what is wrong here becomes a Rejection with the reason.

    `config`: the options of the run as this site has them (`options.at_site`); `explicit`: names of those that were given.
    `folder`: of all runs of this site.
    """
    own = folder / job.run / f"client-{client}"

    def done() -> Outcome:
        if job.client != client:
            raise ConfigError(f"this site has client {client}, and was asked for client {job.client}")
        if job.program != program():
            raise ConfigError(f"the server runs {job.program}, and this site {program()}: install the same")
        table = _read_table(own)
        table.schema = job.schema or table.schema
        try:
            with _at_work(config, explicit, client, table.schema) as rounds:
                return _do(job, rounds, own, table)
        except Lost as lost:
            return lost

    return _or_rejection(client, done)


def count_samples(client: int, config: Config, explicit: frozenset[str], schema: str) -> int | Rejection:
    """How many samples of its own the site of `client` has, read as `schema` says; a Rejection with the reason if it cannot
    train on them. `config` and `explicit` as in `do`."""

    def counted() -> int:
        with _at_work(config, explicit, client, schema) as rounds:
            return rounds.worker.sizes[client]

    return _or_rejection(client, counted)


def _or_rejection(client: int, work: Callable[[], T]) -> T | Rejection:
    """What `work` comes to, or why it failed."""
    try:
        return work()
    except (ConfigError, DataError, RoundError, NonFiniteError, PayloadError) as error:
        return Rejection(client, str(error))
    except (Exception, SystemExit) as error:
        return Rejection(client, in_one_line(error))


@contextlib.contextmanager
def _at_work(config: Config, explicit: frozenset[str], client: int, schema: str) -> Iterator[SyncRounds]:
    """The parts of a client's work, on data of its own as the `schema` says; Lost if that is missing."""
    site = None
    if is_by_site(config):
        if not schema:
            raise Lost
        site = Site(client, read_schema(schema))
    config = reconcile(expand_paths(config), explicit)
    check_options(config, explicit)
    with (
        usual_surroundings(),
        kept_generators(),
        on_cpu_by_default(),
        join_ranks(config) as ranks,
        replaying(ranks.device),
    ):
        worker = assemble(resolve(config, world_size=1, threads=ranks.threads, explicit=explicit), ranks, site)
        yield SyncRounds(worker, make_sampler(worker.config, worker.sizes))


@dataclass
class _Table:
    """What a site's folder holds. `model`: SHA-256 of its copy of that `version`. `states`: the client's, each by how many
    of its updates counted when it was made, if its own did. `schema`: of its data, as the server sent it."""

    version: int = WHOLE
    model: str = ""
    states: dict[str, Stored] = field(default_factory=dict)
    schema: str = ""

    @property
    def model_file(self) -> str:
        return f"model-{self.version:06d}.safetensors"


def _do(job: SiteJob, rounds: SyncRounds, folder: Path, table: _Table) -> Outcome:
    if not 0 <= job.client < len(rounds.worker.parts):
        raise ConfigError(f"there is no client {job.client} of {len(rounds.worker.parts)}: clients count from 0")
    folder.mkdir(parents=True, exist_ok=True)
    _catch_up(job, rounds, folder, table)
    if job.ends:
        save_tensors(folder / _FINAL, rounds.state.state_dict())
        return Delivered()
    new = _Table(job.version, schema=table.schema)
    outcome = _train(job, rounds, folder, table, new)
    if table.version == new.version:
        new.model = table.model
    else:
        new.model = write_tensors(folder / new.model_file, _copy(rounds))
    write_json(folder / _TABLE, dataclasses.asdict(new))
    _tidy(folder, job.client, new)
    return outcome


def _train(job: SiteJob, rounds: SyncRounds, folder: Path, table: _Table, new: _Table) -> Message | Rejection:
    """Train, and write what the client keeps if its message counts, beside what it keeps if that does not."""
    before = str(job.counted)
    stored = {}
    if before in table.states:
        stored[job.client] = table.states[before]
    needed = {before, *map(str, job.saved)}
    new.states = {counted: each for counted, each in table.states.items() if counted in needed}
    if rounds.encoder.fractions.learns:
        rounds.encoder.fractions.values[job.client] = job.share
    rounds.states.open(folder, stored)
    rounds.plan.begin(job.version, [job.client])
    outcome = next(rounds.messages({job.client: job.number}, job.version))
    assert outcome is not None, "this rank hosts all clients"
    rounds.states.commit()
    for client, kept in rounds.states.take_changed().states.items():
        new.states[str(job.counted + 1)] = rounds.states.write(client, kept)
    return outcome


def _copy(rounds: SyncRounds) -> dict[str, Tensor]:
    """This version of the global model, and what clients need besides."""
    model = {"parameters": rounds.state.parameters, "buffers": rounds.state.buffers}
    return split_state({"model": model, "algorithm": rounds.algorithm.server_state()})[0]


def _catch_up(job: SiteJob, rounds: SyncRounds, folder: Path, table: _Table) -> None:
    """Have the job's version of the global model; Lost if that takes what this site has no more."""
    if job.since == WHOLE:
        take_model(rounds.state, {name: each for name, each in job.sections.items() if name != "variate"})
        if "variate" in job.sections:
            n = rounds.state.layout.total
            rounds.algorithm.apply_broadcast(BUFFERS.decode(job.sections["variate"], n).values)
        return
    if table.version != job.since:
        raise Lost
    try:
        state = join_state(load_tensors(folder / table.model_file, table.model))
    except DataError:
        raise Lost from None
    rounds.state.parameters.copy_(state["model"]["parameters"])
    rounds.state.buffers.copy_(state["model"]["buffers"])
    rounds.algorithm.load_server_state(state.get("algorithm", {}))
    newest = {name: each for name, each in job.sections.items() if not name.startswith("change/")}
    for version in range(job.since, job.version):
        if (change := job.sections.get(f"change/{version}")) is None:
            raise PayloadError(f"the job lacks the change from version {version} of the model")
        rounds.plan.begin(version, [])  # what that round exchanged
        rounds.apply({"change": change, **newest})


def _read_table(folder: Path) -> _Table:
    """What the folder holds; nothing if that cannot be read."""
    try:
        values: dict[str, Any] = read_json(folder / _TABLE)
        states = {name: Stored(int(number), str(digest)) for name, (number, digest) in values["states"].items()}
        return _Table(int(values["version"]), str(values["model"]), states, str(values["schema"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return _Table()


def _tidy(folder: Path, client: int, table: _Table) -> None:
    """Delete what the table no longer names."""
    needed = {
        _TABLE,
        _FINAL,
        table.model_file,
        *(client_file(client, stored.number) for stored in table.states.values()),
    }
    for path in folder.iterdir():
        if path.name not in needed:
            path.unlink()
