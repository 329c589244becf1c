"""Flower's grid as the engine that carries messages between the server and its sites."""

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl.comm.message import Rejection
from fl.common.errors import ConfigError, DataError
from fl.data import Schema

from ..protocol import Outcome, SiteJob, Values, read_outcome
from .records import from_records, size, to_records

_PAUSE_S = 0.3
_NOT_ITS_OWN = "the SuperNode that was registered as %s says that it has client %d: it gets no job"


class _Node(NamedTuple):
    """A SuperNode since it was started: another start is another node. `name`: which it was registered under, if any."""

    number: int
    started: str
    name: str

    def may_have(self, client: int) -> bool:
        """Whether it was registered for this client, or without a name."""
        return self.name in ("", f"site-{client}")


class FlowerEngine:
    """Finds the node of each client by asking every node which client it has, once while it is there.

    A node that was registered under the name `site-N` has client N: that it has another one does not count. A job that was
    with a node when it was started anew went with it, and is sent again.
    """

    def __init__(self, grid: Grid, patience_s: float) -> None:
        """`patience_s`: seconds to wait for a client's node before its job is given up."""
        self.carried_bytes = 0
        self._grid = grid
        self._patience_s = patience_s
        self._clients: dict[_Node, int | None] = {}  # of each node that is there; None: not known
        self._question: Values = {}  # what a node is told when it is asked for its client
        self._answers: dict[_Node, Values] = {}
        self._asked: dict[str, _Node] = {}  # by the message that asks it
        self._jobs: dict[str, tuple[SiteJob, _Node]] = {}  # by the message that holds it: a job and where it is
        self._over: deque[tuple[int, Outcome]] = deque()

    def connected(self, clients: Sequence[int], least: int) -> list[int]:
        nodes = self._wait_for(clients, least)
        return [client for client in clients if client in nodes]

    def survey(self, clients: int, schema: Schema) -> list[int]:
        self._question, self._clients = {"schema": schema.to_json()}, {}
        nodes = self._wait_for(range(clients), clients)
        self._question = {}
        sizes = []
        for client in range(clients):
            if client not in nodes:
                raise ConfigError(self._absent(client))
            answer = self._answers[nodes[client]]
            size = answer.get("samples")
            if not isinstance(size, int) or size < 1:
                reason = answer.get("reason", "it has not said how many samples it has")
                raise DataError(f"the site of client {client} cannot take part: {reason}")
            sizes.append(size)
        return sizes

    def send(self, job: SiteJob) -> None:
        node = self._wait_for([job.client], 1).get(job.client)
        name = node and self._push(to_records(job.record()), node, MessageType.TRAIN)
        if node and name:
            self._jobs[name] = job, node
            return
        self._over.append((job.client, Rejection(job.client, self._absent(job.client))))

    def _absent(self, client: int) -> str:
        return f"no SuperNode with partition-id {client} has been connected for {self._patience_s:g} s"

    def receive(self, patience_s: float = math.inf) -> tuple[int, Outcome] | None:
        ends = time.monotonic() + patience_s
        while not self._over:
            for reply in self._pull(list(self._jobs)):
                job, _ = self._jobs.pop(reply.metadata.reply_to_message_id)
                self._over.append((job.client, _outcome(job.client, reply)))
            if not self._over:
                if time.monotonic() >= ends:
                    return None
                self._send_again()
                time.sleep(_PAUSE_S)
        return self._over.popleft()

    def _send_again(self) -> None:
        """Send the jobs of nodes that were started anew."""
        started = {node.number: node for node in self._nodes()}
        for name, (job, node) in list(self._jobs.items()):
            if started.get(node.number, node) != node:
                del self._jobs[name]
                self.send(job)

    def _wait_for(self, clients: Sequence[int], least: int) -> dict[int, _Node]:
        """The nodes that are there, as soon as so many of these clients have one, or it has taken too long."""
        ends = time.monotonic() + self._patience_s
        while True:
            nodes = self._look()
            if sum(client in nodes for client in clients) >= least or time.monotonic() > ends:
                return nodes
            time.sleep(_PAUSE_S)

    def _look(self) -> dict[int, _Node]:
        """The nodes that are there and have said which client they have, by client; others are asked."""
        nodes = self._nodes()
        for gone in self._clients.keys() - nodes:
            del self._clients[gone]
        for node in nodes - self._clients.keys():
            if name := self._push(to_records((self._question, {})), node, MessageType.QUERY):
                self._clients[node], self._asked[name] = None, node
        for reply in self._pull(list(self._asked)):
            node = self._asked.pop(reply.metadata.reply_to_message_id)
            answer = {} if reply.has_error() else from_records(reply.content)[0]
            client = answer.get("client")
            if node not in nodes or not isinstance(client, int):
                continue
            if node.may_have(client):
                self._clients[node], self._answers[node] = client, answer
            else:
                logging.getLogger("leanfed").warning(_NOT_ITS_OWN, node.name, client)
        said = [(node, client) for node, client in self._clients.items() if client is not None]
        return {client: node for node, client in sorted(said, key=lambda one: one[0].name)}  # those with a name last

    def _nodes(self) -> set[_Node]:
        return {_Node(node.node_id, node.last_activated_at, node.name) for node in self._grid.get_nodes()}

    def _push(self, records: RecordDict, node: _Node, kind: str) -> str | None:
        """Send a message; its name, or None if the node has gone."""
        message = Message(records, node.number, kind)
        self.carried_bytes += size(message)
        return next(iter(self._grid.push_messages([message])))

    def _pull(self, names: list[str]) -> list[Message]:
        replies = list(self._grid.pull_messages(names)) if names else []
        self.carried_bytes += sum(map(size, replies))
        return replies


def _outcome(client: int, reply: Message) -> Outcome:
    if reply.has_error():
        return Rejection(client, f"its SuperNode failed: {' '.join(reply.error.reason.split())}")
    return read_outcome(client, from_records(reply.content))
