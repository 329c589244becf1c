"""A step that several ranks take together, each on its share of the batch."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fl.common.ranks import Ranks


def own_group(peers: Ranks) -> dist.ProcessGroup:
    """A new process group of these ranks, for a library's collectives: where a rank fails in a step, no other collective
    meets one of these."""
    assert peers.group is not None
    return dist.new_group(dist.get_process_group_ranks(peers.group), use_local_synchronization=True)


def share_of(peers: Ranks, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """This rank's share of a batch `x` [batch, ...] and `y` [batch], never empty, and the weight of the share's mean loss.

    The mean of all ranks' weighted losses is the mean loss over the batch, whatever its size.
    """
    begin, end = (len(y) * (peers.rank + at) // peers.world_size for at in (0, 1))
    weight = (end - begin) * peers.world_size / len(y)
    if not weight:
        begin, end = 0, 1  # what counts on every rank (hooks on gradients, collectives) does so here too
    return x[begin:end], y[begin:end], weight


def mean_loss(peers: Ranks, loss: Tensor) -> Tensor:
    """The mean of all ranks' weighted losses (see `share_of`), detached, on the device of `loss`; collective."""
    return peers.sum(loss.detach().to(peers.wire_device)).to(loss.device) / peers.world_size


def accumulate_together(
    peers: Ranks,
    params: Sequence[nn.Parameter],
    x: Tensor,
    y: Tensor,
    add_up: Callable[[Tensor, Tensor, float], Tensor],
) -> Tensor:
    """Give `params` the gradient of the mean loss over a batch that all ranks have, `x` [batch, ...] and `y` [batch].

    `add_up` adds the gradient of the mean loss over some samples, times a weight, and returns that loss, detached.

    Returns the loss of the batch, detached. All of it is the same on every rank. Collective; PeerError if it fails on one of
    them.

    This is what DistributedDataParallel does with a single bucket. DDP itself would wait for ever for a rank that has
    failed, count batches alike whatever their size, and add up in another order after a restart.
    """
    with peers.together():
        loss = add_up(*share_of(peers, x, y))
    sizes = [parameter.numel() for parameter in params]
    whole = torch.zeros(sum(sizes) + len(params) + 1, device=peers.device)
    gradient, used, mean = whole.split([sum(sizes), len(params), 1])
    mean.copy_(loss)
    parts = [part.view(each.shape) for part, each in zip(gradient.split(sizes), params, strict=True)]
    for each, part, flag in zip(params, parts, used, strict=True):
        if each.grad is not None:
            part.copy_(each.grad)
            flag.fill_(1)
    whole.copy_(peers.sum(whole.to(peers.wire_device))).div_(peers.world_size)
    # What no rank has used has no gradient, and so keeps its weights and its momentum.
    for each, part, count in zip(params, parts, used.tolist(), strict=True):
        each.grad = torch.empty_like(each).copy_(part) if count else None
    return mean[0].clone()  # alone: a caller keeps it
