"""Which process this is among how many, on which device, and the process group between them."""

import contextlib
import dataclasses
import datetime
import functools
import importlib
import itertools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compression.phases import phase

from .config import Config, RunOptions
from .errors import ConfigError, LaunchError, PeerError, RoundError, in_one_line
from .heart import Heart
from .launch import Place, detect_launcher, read_place
from .program import source_sha256

# A rank with little to do waits for the others while they train, however long. `Heart` notices one that hangs.
_TIMEOUT = datetime.timedelta(days=365)
_MEETING_TIMEOUT = datetime.timedelta(minutes=30)

_MAY_DIFFER = frozenset(
    f"--{name}"
    for name in (
        *("data-dir", "cache-dir", "download", "output-dir", "threads"),
        *("quiet", "tensorboard", "track", "hang-timeout", "state-budget"),
    )
)
"""What may depend on the machine that a rank is on."""

_groups = itertools.count()


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    `wire_device` is where tensors must lie to be sent: the GPU with NCCL, else the CPU. `group`: the process group of these
    ranks, None for that of all. `peers`: the ranks that train clients together with this one, in a numbering of their own;
    None if it trains its clients alone. `shards`: the first ranks, this one among them, where they share the server's work;
    else None.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    wire_device: torch.device
    launcher: str
    threads: int
    heart: Heart | None = None
    group: dist.ProcessGroup | None = None
    peers: "Ranks | None" = None
    shards: "Ranks | None" = None
    _placed: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def per_client(self) -> int:
        """How many ranks train a client together."""
        return 1 if self.peers is None else self.peers.world_size

    @property
    def is_server(self) -> bool:
        """Whether this is rank 0, which holds the server."""
        return self.rank == 0

    @property
    def serves(self) -> bool:
        """Whether this rank does work of the server."""
        return self.is_server or self.shards is not None

    def owner(self, client: int) -> int:
        """The rank that hosts `client`: it sends, and its residual and other state live there. Always the same one, unless
        the client was placed elsewhere."""
        hosts = self.world_size // self.per_client
        return self._placed.get(client, client % hosts) * self.per_client

    def place(self, steps: Mapping[int, int]) -> None:
        """Until the next call have these clients, which keep nothing between rounds and take so many `steps`, where they
        are done soonest: the longest first, each on the rank with the fewest steps. The same on every rank."""
        loads = [0] * (self.world_size // self.per_client)
        self._placed.clear()
        for client in sorted(steps, key=lambda client: (-steps[client], client)):
            host = loads.index(min(loads))
            self._placed[client] = host
            loads[host] += steps[client]

    def hosts(self, client: int) -> bool:
        """Whether this rank hosts `client`."""
        return self.owner(client) == self.rank

    def trains(self, client: int) -> bool:
        """Whether this rank trains `client`: it hosts it, or is a peer of the rank that does."""
        return 0 <= self.rank - self.owner(client) < self.per_client

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """In this block all of these ranks succeed, or each of them raises PeerError. Collective; where blocks are nested,
        a failure in an inner one is told once, and a rank may fail outside of the inner one that another is in."""
        error: BaseException | None = None
        try:
            yield
        except PeerError:
            raise
        except (Exception, SystemExit) as raised:
            error = raised
        if reason := self.first_text("" if error is None else in_one_line(error)):
            raise PeerError(reason, error)

    @phase("transfer")
    def sum(self, table: Tensor) -> Tensor:
        """The sum of a small CPU tensor over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(table, group=self.group)
        return table

    @phase("transfer")
    def gather(self, table: Tensor) -> Tensor:
        """The small CPU tensors of all ranks, [world_size, ...], each of the same shape; collective."""
        tables = [table]
        if self.world_size > 1:
            tables = [torch.empty_like(table) for _ in range(self.world_size)]
            dist.all_gather(tables, table, group=self.group)
        return torch.stack(tables)

    def all_agree(self, number: int) -> bool:
        """Whether every rank passes the same number; collective."""
        return bool((self.gather(torch.tensor(number)) == number).all())

    @phase("transfer")
    def largest(self, number: int) -> int:
        """The largest number that any rank passes; collective."""
        table = torch.tensor(number)
        if self.world_size > 1:
            dist.all_reduce(table, dist.ReduceOp.MAX, group=self.group)
        return int(table)

    def wait_for_all(self) -> None:
        """Return when every rank has got here. (A barrier of its own would pick a device; this one is on the CPU.)"""
        self.sum(torch.zeros(1))

    def store(self) -> dist.Store:
        """A connection of its own to the store of the process group. Any thread may use it, at any time: it is no
        collective."""
        return dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]

    def explained(self, error: Exception) -> Exception:
        """A RoundError in one sentence, if `error` means that another rank is gone; else `error`."""
        return error if self.heart is None else self.heart.explained(error)

    @phase("transfer")
    def broadcast(self, payload: Tensor | None, source: int = 0) -> Tensor:
        """The payload of rank `source` (uint8, on `device`) to every rank, at its exact size; the others pass None.

        Raises RoundError where that rank called `broadcast_failure` instead.
        """
        if self.world_size > 1:
            size = torch.tensor([0 if payload is None else payload.numel()])
            dist.broadcast(size, group=self.group, group_src=source)
            if int(size) < 0:
                raise RoundError(f"rank {source} failed, and says why")
            if payload is None:
                buffer = torch.empty(int(size), dtype=torch.uint8, device=self.wire_device)
            else:
                buffer = payload.to(self.wire_device)
            dist.broadcast(buffer, group=self.group, group_src=source)
            payload = buffer.to(self.device) if self.rank != source else payload
        assert payload is not None
        return payload

    def broadcast_failure(self, source: int = 0) -> None:
        """Called by rank `source` in place of `broadcast`: the other ranks raise RoundError there."""
        dist.broadcast(torch.tensor([-1]), group=self.group, group_src=source)

    def share(self, make: Callable[[], Tensor], source: int = 0) -> Tensor:
        """What `make` returns on rank `source`, uint8, on every rank; if it raises there, every rank raises."""
        payload = None
        if self.rank == source:
            try:
                payload = make()
            except Exception:
                if self.world_size > 1:
                    self.broadcast_failure(source)
                raise
        return self.broadcast(payload, source)

    def share_json(self, make: Callable[[], Any], source: int = 0) -> Any:
        """What `make` returns on rank `source`, as JSON keeps it, on every rank; if it raises there, every rank raises."""

        def encoded() -> Tensor:
            return torch.frombuffer(bytearray(json.dumps(make()).encode()), dtype=torch.uint8).to(self.device)

        return json.loads(self.share(encoded, source).cpu().numpy().tobytes())

    def first_text(self, text: str) -> str:
        """The text of the first rank whose text is not empty, on every rank; collective."""
        has = torch.zeros(self.world_size, dtype=torch.int64)
        has[self.rank] = bool(text)
        found = self.sum(has).nonzero()
        return str(self.share_json(lambda: text, int(found[0]))) if len(found) else ""


@contextlib.contextmanager
def in_groups(ranks: Ranks, per_client: int = 1, shards: int = 1) -> Iterator[Ranks]:
    """`ranks`, of which so many neighbours each train clients together, and the first `shards` serve. Collective.

    `per_client` must divide the number of ranks, and `shards` must be no more than that.
    """
    each = [list(range(first, first + per_client)) for first in range(0, ranks.world_size, per_client)]
    with _group(ranks, each) as peers, _group(ranks, [list(range(shards))]) as first:
        yield dataclasses.replace(ranks, peers=peers, shards=first)


@contextlib.contextmanager
def _group(ranks: Ranks, groups: list[list[int]]) -> Iterator[Ranks | None]:
    """The one of these `groups` of ranks that this rank is in, if it is not alone there; collective."""
    if len(groups[0]) == 1:
        yield None
        return
    found, _ = dist.new_subgroups_by_enumeration(groups, timeout=_TIMEOUT)
    if found is None or found == dist.GroupMember.NON_GROUP_MEMBER:
        yield None
        return
    try:
        yield dataclasses.replace(ranks, rank=dist.get_rank(found), world_size=dist.get_world_size(found), group=found)
    finally:
        dist.destroy_process_group(found)


@contextlib.contextmanager
def join_ranks(options: RunOptions, given: Config | None = None) -> Iterator[Ranks]:
    """Set threads and device, join the process group (or use the one that exists), and leave it at the end.

    `given`: the options that this rank was started with; ConfigError if another one has others, or another program.
    Without a launcher a group of one is made, so that DDP and its hooks work in a single process too.
    """
    created = not dist.is_initialized()
    launcher = detect_launcher()
    place = read_place() if created else _place_in_group()
    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no usable GPU; use --device cpu or auto")
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", place.local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    nccl = cuda and not created and _existing_group_has_nccl()
    threads = options.threads or max(1, _cores() // place.local_world_size)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    hook_before = sys.excepthook
    heart = None
    try:
        with _variables(place):
            if created:
                nccl, heart = _make_group(place, device, options.hang_timeout, given)
            ranks = Ranks(
                rank=place.rank,
                world_size=place.world_size,
                local_rank=place.local_rank,
                local_world_size=place.local_world_size,
                device=device,
                wire_device=device if nccl else torch.device("cpu"),
                launcher=launcher,
                threads=threads,
                heart=heart,
            )
            try:
                yield ranks
                if created:
                    # Without a barrier a rank that leaves first sometimes ends the others with a C++ exception.
                    dist.barrier()
                    sys.excepthook = hook_before  # each new group wraps it, to print its rank, once more
            except RuntimeError as error:
                raise ranks.explained(error) from error.__cause__
    finally:
        if heart is not None:
            heart.stop()
        torch.set_num_threads(threads_before)
        if created and dist.is_initialized():
            leave_group()


def _place_in_group() -> Place:
    """This process in the group that exists, whoever made it, and on its machine as far as the environment says."""
    local = [os.environ.get(name, "") for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")]
    local_rank, local_world_size, local_size = (int(text) if text.isdigit() else 0 for text in local)
    return Place(dist.get_rank(), dist.get_world_size(), local_rank, local_world_size or local_size or 1)


@contextlib.contextmanager
def _variables(place: Place) -> Iterator[None]:
    """In this block the environment has torch's variables, whatever the launcher; afterwards it is as before."""
    missing = {name: value for name, value in place.variables.items() if not os.environ.get(name)}
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)


def _make_group(
    place: Place, device: torch.device, hang_timeout_s: float, given: Config | None
) -> tuple[bool, Heart | None]:
    """Make the process group; returns whether it sends GPU tensors through NCCL, and this rank's heart among several."""
    # Its functions take the group that exists when it is imported as a default, and so keep it alive. A group that
    # outlives destroy_process_group() has threads that sometimes abort the process while Python shuts down.
    importlib.import_module("torch.distributed.nn.functional")
    store = _store(place)
    if place.world_size > 1 and given is not None:
        _refuse_differences(store, place, given)
    nccl = device.type == "cuda" and _each_has_a_gpu(store, place, device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if nccl else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.world_size,
        timeout=_TIMEOUT,
    )
    heart = None
    if place.world_size > 1:
        launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        keeper = f"the launcher's store at {place.address}:{place.port}" if launcher else "rank 0"
        heart = Heart(store, place.rank, place.world_size, keeper, hang_timeout_s)
    # A rank that fails at once must not be gone while another is still connecting to it.
    dist.all_reduce(torch.zeros(1))
    if heart is not None:
        heart.start()
    return nccl, heart


def _refuse_differences(store: dist.Store, place: Place, given: Config) -> None:
    """ConfigError on every rank if one has other options than rank 0, or another version of torch or of this program."""
    words = {f"--{name.replace('_', '-')}": str(value) for name, value in dataclasses.asdict(given).items()}
    own = {"this program": source_sha256(), "torch": torch.__version__, **words}
    store.set(f"started_{place.rank}", json.dumps(own))
    all_words = [json.loads(store.get(f"started_{rank}")) for rank in range(place.world_size)]
    store.add("started", 1)
    while place.rank == 0 and store.add("started", 0) < place.world_size:
        time.sleep(0.01)  # its store must outlive the others' questions
    first = all_words[0]
    for rank, other in enumerate(all_words):
        for name in [name for name in first if name not in _MAY_DIFFER and other.get(name) != first[name]]:
            raise ConfigError(
                f"{name} is {first[name]} on rank 0 and {other.get(name)} on rank {rank}: start all ranks with the same "
                "program and the same options"
            )


def _each_has_a_gpu(store: dist.Store, place: Place, device: torch.device) -> bool:
    """Whether no two ranks share a GPU, which NCCL refuses; the same answer on all of them.

    How many GPUs a rank sees does not tell: it may be shown one of its own and no other.
    """
    store.set(f"gpu_{place.rank}", str(torch.cuda.get_device_properties(device).uuid))
    gpus = {store.get(f"gpu_{rank}") for rank in range(place.world_size)}
    return len(gpus) == place.world_size


def leave_group() -> None:
    """Destroy the process group, and free it on this thread.

    A thread of gloo may still hold the last callback of a DDP hook, and that the group: freed there, the group would wait
    for its own thread, and abort the process ("Resource deadlock avoided", about one in 500 with PowerSGD).
    """
    group = dist.group.WORLD
    dist.destroy_process_group()
    time.sleep(0.02)
    del group


def _existing_group_has_nccl() -> bool:
    """Whether the process group that the caller made sends GPU tensors through NCCL; ConfigError if not CPU tensors too."""
    backends = dist.get_backend_config()
    if "cpu:" not in backends:
        raise ConfigError(f"the process group has the backend '{backends}'; make it with 'cpu:gloo,cuda:nccl'")
    return "cuda:nccl" in backends


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _store(place: Place) -> dist.Store:
    """A store of the next group's own: it must not read the addresses that an earlier one, or the ranks of an attempt that
    died, left in the launcher's."""
    if place.address is None:
        return dist.HashStore()
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"attempt_{attempt}/group_{next(_groups)}", _shared_store(place))


@functools.cache
def _shared_store(place: Place) -> dist.Store:
    """The launcher's store, or that of rank 0, kept for all groups of this process: a port is free again only later."""
    where = f"MASTER_ADDR {place.address}, MASTER_PORT {place.port}"
    try:
        socket.getaddrinfo(place.address, place.port)  # the rendezvous would try again for half an hour
        return next(iter(dist.rendezvous("env://", timeout=_MEETING_TIMEOUT)))[0]
    except socket.gaierror as error:
        raise LaunchError(f"{where}: this machine finds no address of that name ({error.strerror})") from None
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error):
            raise LaunchError(f"{where}: another program has this port; choose another") from None
        why = str(error).splitlines()[0]
        raise LaunchError(f"{where}: the {place.world_size} ranks have not met there ({why})") from None
