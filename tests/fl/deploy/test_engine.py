"""Flower's grid as an engine, without Flower's programs: nodes are functions of this process. Oracle: the run in one
process."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from fl.comm.message import Rejection
from fl.common.errors import ConfigError, DataError
from fl.deploy.protocol import Delivered, SiteJob
from tests.fl.deploy.test_sites import OWN, TABLE, Own, write_tables
from tests.support import QUICK, no_figures, run_here

pytest.importorskip("flwr", reason="pip install 'leanfed[flower]'")

from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from fl.deploy.flower.client_app import app
from fl.deploy.flower.engine import FlowerEngine
from fl.deploy.flower.records import to_records
from fl.deploy.flower.server_app import serve
from fl.deploy.protocol import outcome_record

OPTIONS: dict[str, Any] = {"clients": 2, "rounds": 2, "limit_train": 80, "local_steps": 2, "batch_size": 16}


@pytest.fixture(autouse=True)
def _in_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Flower's processes know of themselves."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@dataclasses.dataclass
class Node:
    """A SuperNode: what it answers. `activated`: when it was started last; `name`: which it was registered under."""

    answer: Callable[[Message], Message | None]
    activated: str = "1"
    name: str = ""
    online: bool = True


class Grid:
    """What the engine uses of Flower's. A message that its node has not answered when it is pulled never is."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes
        self._replies: dict[str, Message] = {}
        self.pushed: list[Message] = []

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [
            NodeInfo(node_id=n, last_activated_at=each.activated, name=each.name)
            for n, each in self.nodes.items()
            if each.online
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            name = f"message {len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = name
            self.pushed.append(message)
            if (reply := self.nodes[message.metadata.dst_node_id].answer(message)) is not None:
                self._replies[name] = reply
            yield name

    def pull_messages(self, names: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(name) for name in names if name in self._replies]


def _site(client: int, folder: Path, **options: Any) -> Node:
    context = Context(1, client, {"partition-id": client, "state-dir": str(folder)}, RecordDict(), options)
    return Node(lambda message: app(message=message, context=context))


def _of(client: int, *outcomes: Any) -> Node:
    """A node of this client that answers jobs with these outcomes; None: it does not."""
    left = iter(outcomes)

    def answer(message: Message) -> Message | None:
        if message.metadata.message_type == "query":
            return Message(to_records(({"client": client}, {})), reply_to=message)
        outcome = next(left)
        if isinstance(outcome, Error):
            return Message(outcome, reply_to=message)
        return None if outcome is None else Message(to_records(outcome_record(outcome)), reply_to=message)

    return Node(answer)


def _job(client: int) -> SiteJob:
    return SiteJob("0123456789abcdef", client, 0, 0, -1, 0, [], 1.0, "leanfed", True)


def test_a_run(tmp_path: Path) -> None:
    """The same model as in one process, by Flower's records, server app and client app."""
    given = {**QUICK, **OPTIONS, "output_dir": str(tmp_path)}
    here = run_here(tmp_path, "here", **OPTIONS)
    nodes = {100 - client: _site(client, tmp_path / "sites", **given, run_name="there") for client in range(2)}
    with no_figures():
        there = serve(Grid(nodes), {**given, "run-name": "there"})  # type: ignore[arg-type]
    assert there["model_sha256"] == here["model_sha256"]
    assert there["total_engine_bytes"] > 0


def _own(client: int, folder: Path, words: str = "", **options: Any) -> Node:
    """A site with a table of its own."""
    node = {"partition-id": client, "data-dir": str(folder / f"site-{client}"), "dataset": f"csv:{TABLE}{words}"}
    context = Context(1, client, {**node, "state-dir": str(folder / "sites")}, RecordDict(), options)
    return Node(lambda message: app(message=message, context=context))


def test_sites_with_data_of_their_own(tmp_path: Path) -> None:
    """By Flower's records. Oracle: the same sites without an engine, in tests/fl/deploy/test_sites.py."""
    write_tables(tmp_path, {"server": 60, "site-0": 30, "site-1": 50})
    dataset = {"dataset": f"csv:{tmp_path}/server/{TABLE}"}
    options = {name: value for name, value in {**QUICK, **OWN, **dataset}.items() if value is not None}
    here = Own(tmp_path, options).run("here")
    given = {**options, "output_dir": str(tmp_path), "run_name": "there"}
    nodes = {client: _own(client, tmp_path, **given) for client in range(2)}
    with no_figures():
        there = serve(Grid(nodes), given)  # type: ignore[arg-type]
    assert there["model_sha256"] == here["model_sha256"]
    log = (tmp_path / "there" / "run.log").read_text()
    assert "80 training samples at 2 sites; here 43 that say how samples are read, 5 validation" in log


@pytest.mark.parametrize(
    ("clients", "words", "reason"),
    [
        (2, ",missing=x+y", "the site of client 1 cannot take part: --dataset csv:.*column 'ward' holds no values"),
        (3, "", "no SuperNode with partition-id 2 has been connected for 1 s"),
    ],
)
def test_sites_that_cannot_take_part(tmp_path: Path, clients: int, words: str, reason: str) -> None:
    """One sentence names the site, before there is a run folder."""
    write_tables(tmp_path, {"server": 60, "site-0": 30, "site-1": 50})
    dataset = {"dataset": f"csv:{tmp_path}/server/{TABLE}", "clients": clients, "hang_timeout": 1.0}
    options = {name: value for name, value in {**QUICK, **OWN, **dataset}.items() if value is not None}
    given = {**options, "output_dir": str(tmp_path), "run_name": "there"}
    nodes = {client: _own(client, tmp_path, words * client, **given) for client in range(2)}
    with pytest.raises((ConfigError, DataError), match=reason):
        serve(Grid(nodes), given)  # type: ignore[arg-type]
    assert not (tmp_path / "there").exists()


def test_a_node_without_a_client(tmp_path: Path) -> None:
    """A node that does not say which client it has is asked once, and the job of another waits for its own."""

    def fails(message: Message) -> Message:
        return Message(Error(0, "no partition-id"), reply_to=message)

    grid = Grid({1: Node(fails), 2: _of(0, Delivered())})
    engine = FlowerEngine(grid, 0.5)  # type: ignore[arg-type]
    for client in (0, 1):
        engine.send(_job(client))
    outcomes = dict(_received(engine) for _ in range(2))
    assert isinstance(outcomes[0], Delivered)
    assert outcomes[1] == Rejection(1, "no SuperNode with partition-id 1 has been connected for 0.5 s")
    assert len([message for message in grid.pushed if message.metadata.dst_node_id == 1]) == 1


def test_a_node_that_fails() -> None:
    """Flower's own reason, in one line."""
    engine = FlowerEngine(Grid({1: _of(0, Error(8, "it\nwas killed"))}), 5)  # type: ignore[arg-type]
    engine.send(_job(0))
    assert engine.receive() == (0, Rejection(0, "its SuperNode failed: it was killed"))


def test_patience() -> None:
    """An answer that has come is had at once; one that has not is waited for so long, and can come later."""
    engine = FlowerEngine(Grid({1: _of(0, Delivered()), 2: _of(1, None, Delivered())}), 5)  # type: ignore[arg-type]
    engine.send(_job(1))
    assert engine.receive(0.1) is None
    engine.send(_job(0))
    assert _received(engine, 0.0)[0] == 0
    engine.send(_job(1))
    assert _received(engine)[0] == 1


def _received(engine: FlowerEngine, patience_s: float = math.inf) -> tuple[int, Any]:
    found = engine.receive(patience_s)
    assert found is not None
    return found


def test_a_node_that_was_started_anew() -> None:
    """Its job went with the process that had it, and is sent again."""
    node = _of(0, None, Delivered())
    grid = Grid({1: node})
    engine = FlowerEngine(grid, 5)  # type: ignore[arg-type]
    engine.send(_job(0))
    node.activated = "2"
    client, outcome = _received(engine)
    assert client == 0
    assert isinstance(outcome, Delivered)
    assert [message.metadata.message_type for message in grid.pushed].count("train") == 2


@pytest.mark.parametrize("own", ["site-0", ""])
def test_a_node_that_claims_anothers_client(own: str, caplog: pytest.LogCaptureFixture) -> None:
    """One that was registered as site 1 and says that it has client 0 gets nothing, first or last, there or alone."""
    claims = [dataclasses.replace(_of(0), name="site-1") for _ in range(2)]
    grid = Grid({1: claims[0], 2: dataclasses.replace(_of(0, Delivered()), name=own), 3: claims[1]})
    engine = FlowerEngine(grid, 0.3)  # type: ignore[arg-type]
    engine.send(_job(0))
    assert isinstance(_received(engine)[1], Delivered)
    assert [m.metadata.dst_node_id for m in grid.pushed if m.metadata.message_type == "train"] == [2]
    assert "registered as site-1 says that it has client 0: it gets no job" in caplog.text
    grid.nodes[2].online = False
    assert engine.connected([0, 1], 1) == []


def test_a_name_counts_more_than_none() -> None:
    """Of a node that was registered for a client and one that was registered without a name, the first has it."""
    grid = Grid({1: _of(0), 2: dataclasses.replace(_of(0, Delivered()), name="site-0"), 3: _of(0)})
    engine = FlowerEngine(grid, 0.3)  # type: ignore[arg-type]
    assert engine.connected([0], 1) == [0]
    engine.send(_job(0))
    assert isinstance(_received(engine)[1], Delivered)


def test_who_is_connected() -> None:
    grid = Grid({1: _of(0), 2: _of(1), 3: _of(2)})
    engine = FlowerEngine(grid, 0.3)  # type: ignore[arg-type]
    assert engine.connected([0, 2, 5], 2) == [0, 2]
    grid.nodes[3].online = False
    assert engine.connected([0, 1, 2], 3) == [0, 1], "it does not wait for ever"


def test_messages_are_counted_whole() -> None:
    """Both ways, payloads included."""
    engine = FlowerEngine(Grid({1: _of(0, Delivered())}), 5)  # type: ignore[arg-type]
    engine.send(_job(0))
    before = engine.carried_bytes
    engine.receive()
    assert 0 < before < engine.carried_bytes
