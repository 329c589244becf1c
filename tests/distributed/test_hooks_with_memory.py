"""Hooks whose codec or error feedback remembers more than a residual, and lossless codecs that are not `none`.

Oracle: one `Sender` for each rank (tested by itself), fed with gradients computed without DDP, decoded and averaged in rank
order, compared bit for bit.
"""

import pytest
import torch

from compression import CodecHook, Layout, Sender, make_codec
from compression.draws import derive_key
from tests.distributed.hook_cases import SEVERAL, Spied, descend, flat, gradients, make_model
from tests.support import on_ranks

pytestmark = pytest.mark.timeout(180)

_CASES = (
    ("topk:0.05", "dgc:0.9"),
    ("powersgd:2", "residual"),
    ("csr_codec:csr", "residual"),
    ("fp32+zstd", "residual"),
)


def check(rank: int, world: int, spec: str, feedback: str) -> None:
    spied = Spied(spec, SEVERAL, torch.float32, views=False)
    spied.hook = CodecHook(spec, spied.model.named_parameters(), error_feedback=feedback, seed=3)
    shadow, senders, lengths = make_model(), [Sender(make_codec(spec), feedback) for _ in range(world)], [0] * world
    named = dict(shadow.named_parameters())
    for iteration in range(5):
        buckets = spied.backward(rank, iteration, torch.float32)
        local = [gradients(shadow, other, iteration) for other in range(world)]
        for index, names in enumerate(buckets):
            layout = Layout.of((name, named[name]) for name in names)
            mean = torch.zeros(layout.total)
            for other, sender in enumerate(senders):
                vector = torch.cat([local[other][name].flatten() for name in names])
                payload, decoded = sender.encode(vector, layout, derive_key(3, iteration, other, index))
                sender.keep()
                lengths[other] += payload.numel()
                mean += decoded.dense()
            for name, view in zip(names, layout.views(mean / world), strict=True):
                named[name].grad = view
        for name, parameter in spied.model.named_parameters():
            assert torch.equal(parameter.grad, named[name].grad), (iteration, name)  # type: ignore[arg-type]
        descend(spied.model)
        descend(shadow)
    assert torch.equal(flat(spied.model), flat(shadow))
    assert spied.hook.traffic.sent_bytes == lengths[rank]
    assert spied.hook.traffic.received_bytes == sum(lengths) - lengths[rank]
    ours, theirs = spied.hook.state_dict(), senders[rank].state_dict()
    assert int(ours.pop("calls")) == 5
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def check_all(rank: int, world: int) -> None:
    for spec, feedback in _CASES:
        check(rank, world, spec, feedback)


def test_equals_a_sender_for_each_rank() -> None:
    """5 iterations on 2 ranks with DDP's regrouping of buckets: gradients, bytes and memory by name."""
    on_ranks(2, check_all)
