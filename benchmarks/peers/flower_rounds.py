"""The workload in Flower 1.42's simulation: `flower_rounds.py DATA_DIR ROUNDS`, an actor a core, one thread each."""

import os
import sys
from typing import Any

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional
from workload import BATCH, CLIENTS, COHORT, LR, WARM_UP, Rounds, clients, network

DATA_DIR, ROUNDS = sys.argv[1] if len(sys.argv) > 1 else "data", int(sys.argv[2]) if len(sys.argv) > 2 else 2
client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """One client's epoch."""
    torch.set_num_threads(1)
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    images, classes = clients(DATA_DIR)[int(context.node_config["partition-id"])]
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for x, y in zip(images.split(BATCH), classes.split(BATCH), strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    answer = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(classes)})}
    return Message(RecordDict(answer), reply_to=message)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Every round; those that count start when the first is over."""
    rounds = Rounds()

    def ended(number: int, arrays: Any) -> MetricRecord:
        if number > 0:  # 0 is before the first
            rounds.end()
        return MetricRecord()

    def count(answers: list[RecordDict], weighted_by: str) -> MetricRecord:
        if len(answers) != COHORT:
            raise SystemExit(f"{COHORT - len(answers)} clients failed")
        return MetricRecord()

    strategy = FedAvg(
        fraction_train=COHORT / CLIENTS,
        fraction_evaluate=0.0,
        min_train_nodes=COHORT,
        min_available_nodes=CLIENTS,
        train_metrics_aggr_fn=count,
    )
    strategy.start(
        grid, ArrayRecord(network().state_dict()), num_rounds=WARM_UP + ROUNDS, evaluate_fn=ended, timeout=3600
    )
    rounds.tell()


if __name__ == "__main__":
    run_simulation(
        server,
        client,
        num_supernodes=CLIENTS,
        backend_config={
            "init_args": {"num_cpus": os.cpu_count()},
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
