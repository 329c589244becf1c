"""Flower's grid as the engine that carries messages between the server and its sites."""

import time
from collections import deque

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl.comm.message import Rejection

from ..protocol import Outcome, SiteJob, read_outcome
from .records import from_records, size, to_records

_PAUSE_S = 0.2


class FlowerEngine:
    """Finds the node of each client by asking every node once which client it has.

    A node that is gone is asked no more; one that comes back, or another with the same client, takes its place.
    """

    def __init__(self, grid: Grid, patience_s: float) -> None:
        """`patience_s`: seconds to wait for a client's node before its job is given up."""
        self.carried_bytes = 0
        self._grid = grid
        self._patience_s = patience_s
        self._clients: dict[int, int | None] = {}  # of each node that was asked; None: it has not answered
        self._asked: dict[str, int] = {}  # nodes, by the message that asks them
        self._jobs: dict[str, int] = {}  # clients, by the message that holds their job
        self._over: deque[tuple[int, Outcome]] = deque()

    def send(self, job: SiteJob) -> None:
        node = self._node(job.client)
        if node is None:
            reason = f"no SuperNode with partition-id {job.client} has been connected for {self._patience_s:g} s"
            self._over.append((job.client, Rejection(job.client, reason)))
            return
        self._jobs[self._push(Message(to_records(job.record()), node, MessageType.TRAIN))] = job.client

    def receive(self) -> tuple[int, Outcome]:
        while not self._over:
            for reply in self._grid.pull_messages(list(self._jobs)):
                self.carried_bytes += size(reply)
                client = self._jobs.pop(reply.metadata.reply_to_message_id)
                self._over.append((client, self._outcome(client, reply)))
            if not self._over:
                time.sleep(_PAUSE_S)
        return self._over.popleft()

    def _outcome(self, client: int, reply: Message) -> Outcome:
        if reply.has_error():
            return Rejection(client, f"its SuperNode failed: {' '.join(reply.error.reason.split())}")
        return read_outcome(client, from_records(reply.content))

    def _node(self, client: int) -> int | None:
        """The node of a client, as soon as there is one; None if there is none for too long."""
        ends = time.monotonic() + self._patience_s
        while True:
            nodes = set(self._grid.get_node_ids())
            found = [node for node, has in self._clients.items() if has == client and node in nodes]
            if found:
                return found[-1]
            if time.monotonic() > ends:
                return None
            for node in nodes - self._clients.keys():
                self._clients[node] = None
                self._asked[self._push(Message(RecordDict(), node, MessageType.QUERY))] = node
            for reply in self._grid.pull_messages(list(self._asked)) if self._asked else ():
                self.carried_bytes += size(reply)
                self._learn(self._asked.pop(reply.metadata.reply_to_message_id), reply)
            time.sleep(_PAUSE_S)

    def _learn(self, node: int, reply: Message) -> None:
        has = None if reply.has_error() else from_records(reply.content)[0].get("client")
        self._clients.pop(node)
        if isinstance(has, int):
            self._clients[node] = has

    def _push(self, message: Message) -> str:
        self.carried_bytes += size(message)
        return next(iter(self._grid.push_messages([message])))
