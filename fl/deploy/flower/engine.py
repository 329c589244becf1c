"""Flower's grid as the engine that carries messages between the server and its sites."""

import time
from collections import deque
from collections.abc import Sequence

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fl.comm.message import Rejection

from ..protocol import Outcome, SiteJob, read_outcome
from .records import from_records, size, to_records

_PAUSE_S = 0.2


class FlowerEngine:
    """Finds the node of each client by asking every node which client it has, once while it is there."""

    def __init__(self, grid: Grid, patience_s: float) -> None:
        """`patience_s`: seconds to wait for a client's node before its job is given up."""
        self.carried_bytes = 0
        self._grid = grid
        self._patience_s = patience_s
        self._clients: dict[int, int | None] = {}  # of each node that is there; None: not known
        self._asked: dict[str, int] = {}  # nodes, by the message that asks them
        self._jobs: dict[str, int] = {}  # clients, by the message that holds their job
        self._over: deque[tuple[int, Outcome]] = deque()

    def connected(self, clients: Sequence[int], least: int) -> list[int]:
        ends = time.monotonic() + self._patience_s
        while True:
            nodes = self._look()
            found = [client for client in clients if client in nodes]
            if len(found) >= least or time.monotonic() > ends:
                return found
            time.sleep(_PAUSE_S)

    def send(self, job: SiteJob) -> None:
        if not self.connected([job.client], 1):
            reason = f"no SuperNode with partition-id {job.client} has been connected for {self._patience_s:g} s"
            self._over.append((job.client, Rejection(job.client, reason)))
            return
        node = self._look()[job.client]
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

    def _look(self) -> dict[int, int]:
        """The nodes that are there and have said which client they have, by client; others are asked."""
        nodes = set(self._grid.get_node_ids())
        for gone in self._clients.keys() - nodes:
            del self._clients[gone]
        for node in nodes - self._clients.keys():
            self._clients[node] = None
            self._asked[self._push(Message(RecordDict(), node, MessageType.QUERY))] = node
        for reply in self._grid.pull_messages(list(self._asked)) if self._asked else ():
            self.carried_bytes += size(reply)
            self._learn(self._asked.pop(reply.metadata.reply_to_message_id), reply)
        return {client: node for node, client in self._clients.items() if client is not None and node in nodes}

    def _learn(self, node: int, reply: Message) -> None:
        client = None if reply.has_error() else from_records(reply.content)[0].get("client")
        self._clients[node] = client if isinstance(client, int) else None

    def _push(self, message: Message) -> str:
        self.carried_bytes += size(message)
        return next(iter(self._grid.push_messages([message])))
