"""A site of a run, on one of Flower's SuperNodes.

The configuration of the node says which client it has (`partition-id`), where its data are and where it keeps what the
client keeps (`state-dir`). Flower may start a new process for every message.
"""

from pathlib import Path
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from compression import PayloadError
from fl.comm.message import Rejection
from fl.common.errors import ConfigError
from fl.common.paths import expanded

from ..options import at_site, read_table
from ..protocol import outcome_record, read_job
from ..site import count_samples, do
from .records import from_records, to_records

_STATE_DIR = "~/.leanfed/sites"

app = ClientApp()


@app.query()
def which(message: Message, context: Context) -> Message:
    """Which client this site has, and if it is told what the server's data look like, how many samples of its own."""
    client = _client(context)
    answer: dict[str, Any] = {"client": client}
    if schema := from_records(message.content)[0].get("schema"):
        try:
            found = count_samples(client, *at_site(*read_table(context.run_config), context.node_config), str(schema))
        except ConfigError as error:
            found = Rejection(client, str(error))
        answer |= {"reason": found.reason} if isinstance(found, Rejection) else {"samples": found}
    return Message(to_records((answer, {})), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do a client's job."""
    client = _client(context)
    try:
        config, explicit = at_site(*read_table(context.run_config), context.node_config)
        folder = Path(expanded(str(context.node_config.get("state-dir", _STATE_DIR))))
        outcome = do(read_job(from_records(message.content)), client, config, explicit, folder)
    except (ConfigError, PayloadError) as error:
        outcome = Rejection(client, str(error))
    return Message(to_records(outcome_record(outcome)), reply_to=message)


def _client(context: Context) -> int:
    client = context.node_config.get("partition-id")
    if not isinstance(client, int):
        raise ConfigError("the configuration of this node needs partition-id, the number of its client, from 0")
    return client
