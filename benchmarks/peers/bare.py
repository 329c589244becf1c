"""The workload as a bare PyTorch loop: `bare.py DATA_DIR ROUNDS`, one process or more (torchrun).

Each process loads the global weights, makes the local steps of its part of the cohort and adds up what clients end with, in
bf16 where the CPU has it, which is what LeanFed takes. There is no exchange between processes.
"""

import os
import sys

import torch
from torch.nn import functional
from workload import BATCH, COHORT, LR, WARM_UP, Rounds, clients, network

from fl.training.engine.precision import autocast_dtype, resolve_precision

CPU = torch.device("cpu")


def main(data_dir: str, rounds: int) -> None:
    """Every round."""
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    parts = clients(data_dir)[rank::world][: COHORT // world]
    dtype = autocast_dtype(resolve_precision("auto", CPU))
    model = network().to(memory_format=torch.channels_last)
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, lr=LR, fused=True)
    start = [weight.detach().clone() for weight in weights]
    spent = Rounds()
    for _ in range(WARM_UP + rounds):
        total = [torch.zeros_like(weight) for weight in start]
        for images, classes in parts:
            with torch.no_grad():
                torch._foreach_copy_(weights, start)
            for x, y in zip(images.split(BATCH), classes.split(BATCH), strict=True):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    loss = functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                torch._foreach_add_(total, weights)
        start = list(torch._foreach_div(total, len(parts)))
        spent.end()
    if rank == 0:
        spent.tell()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
