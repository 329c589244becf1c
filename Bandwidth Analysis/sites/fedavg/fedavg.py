"""Flower's own FedAvg on its ArrayRecords, the peer of measure.py: the same model, data set, local steps and threads."""

import json
import time
from itertools import pairwise
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.nn import functional

from fl.data.cifar10 import load
from fl.models.small import pfl_cnn

app_client = ClientApp()
app_server = ServerApp()


def network() -> nn.Module:
    """The model, seeded."""
    torch.manual_seed(0)
    return pfl_cnn(classes=10, in_channels=3, image_size=32)


@app_client.train()
def train(message: Message, context: Context) -> Message:
    """A site's local steps."""
    options, site = context.run_config, int(context.node_config["partition-id"])
    torch.set_num_threads(1)
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    data = load(Path(str(options["data-dir"])), download=False).train
    order = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(site))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for batch in order[: 32 * int(options["steps"])].split(32):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = functional.cross_entropy(model(data.x[batch].float() / 255), data.y[batch])
        loss.backward()
        optimizer.step()
    answer = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(answer), reply_to=message)


@app_server.main()
def serve(grid: Grid, context: Context) -> None:
    """Every round; the seconds of each go to the file `out`."""
    options, ends = context.run_config, []
    sites = int(options["sites"])

    def ended(number: int, arrays: ArrayRecord) -> MetricRecord:
        ends.append(time.perf_counter())
        return MetricRecord()

    def count(answers: list[RecordDict], weighted_by: str) -> MetricRecord:
        if len(answers) != sites:
            raise RuntimeError(f"{sites - len(answers)} sites failed")
        return MetricRecord()

    strategy = FedAvg(
        fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites, train_metrics_aggr_fn=count
    )
    rounds = int(options["rounds"])
    strategy.start(grid, ArrayRecord(network().state_dict()), num_rounds=rounds, evaluate_fn=ended)
    seconds = [after - before for before, after in pairwise(ends)]
    Path(str(options["out"])).write_text(json.dumps(seconds))
