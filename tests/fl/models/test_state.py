"""The global model as flat vectors."""

import pytest
import torch
from torch import nn

from fl.common.errors import ConfigError
from fl.models.state import ModelState


def make() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    model[3].bias.requires_grad_(False)
    return model


def test_update_is_global_minus_local_and_buffers_are_the_clients_own():
    """The local model is the global one plus 0.5 everywhere, so the update is -0.5; frozen parameters are not in it."""
    model = make()
    state = ModelState(model, torch.device("cpu"))
    assert state.layout.total == 4 * 9 + 4 + 4 + 4 + 32
    assert state.buffer_layout.names == ("1.running_mean", "1.running_var")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5
        model[1].running_var.fill_(3.0)
    values, buffers = state.subtract_local(model)
    torch.testing.assert_close(values, torch.full_like(values, -0.5))
    assert buffers.tolist() == [0.0] * 4 + [3.0] * 4


def test_load_restores_every_tensor_whatever_its_memory_format():
    """Trained, frozen and integer tensors are back at the global model's values, in a channels-last model too."""
    model = make()
    state = ModelState(model, torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    state.load_into(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert state.state_dict().keys() == before.keys()


def test_a_tensor_with_two_names_is_exchanged_once_and_learns():
    """Two layers share a weight. Oracle: PyTorch, which updates both names at once."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    state = ModelState(model, torch.device("cpu"))
    assert state.layout.names == ("0.weight",)
    state.parameters.fill_(0.25)
    state.load_into(model)
    assert model[1].weight.eq(0.25).all()
    assert {name: tensor.unique().item() for name, tensor in state.state_dict().items()} == {
        "0.weight": 0.25,
        "1.weight": 0.25,
    }


def test_buffers_outside_the_models_state_begin_anew():
    """A cache registered with persistent=False is neither exchanged nor saved, and no client gets the last one's."""
    model = nn.Linear(2, 1)
    model.register_buffer("cache", torch.ones(2), persistent=False)
    state = ModelState(model, torch.device("cpu"))
    model.cache += 1
    state.load_into(model)
    assert model.cache.tolist() == [1, 1]
    assert state.buffers.numel() == 0
    assert set(state.state_dict()) == {"weight", "bias"}


def test_digest_sees_every_bit_and_nothing_else():
    """Equal models have equal digests; one changed buffer changes it."""
    one, other = (ModelState(make(), torch.device("cpu")) for _ in range(2))
    assert one.sha256() == other.sha256()
    other.buffers[0] += 1e-7
    assert one.sha256() != other.sha256()


def test_a_model_too_large_for_a_payload_is_refused():
    """2^32 parameters, on the meta device, which holds no numbers; payload headers count coordinates in four bytes."""
    with torch.device("meta"):
        model = nn.Linear(1 << 16, 1 << 16, bias=False)
    with pytest.raises(ConfigError, match=r"4,294,967,296 parameters.*fewer than 2\^32"):
        ModelState(model, torch.device("meta"))


def test_counts_that_are_averaged():
    """A mean of 3.4 steps and of 0.6 for a flag is loaded, and saved, as 3 and as true; a table stays as it was."""
    model = nn.Linear(2, 1)
    for name, tensor in (("steps", torch.tensor(2)), ("set", torch.tensor(False)), ("table", torch.tensor([4]))):
        model.register_buffer(name, tensor)
    model.averaged_counts = ("steps", "set")
    state = ModelState(model, torch.device("cpu"))
    assert state.subtract_local(model)[1].tolist() == [2, 0]
    state.buffers.copy_(torch.tensor([3.4, 0.6]))
    state.load_into(model)
    for found in (model.state_dict(), state.state_dict()):
        assert (int(found["steps"]), bool(found["set"]), found["table"].tolist()) == (3, True, [4])
        assert (found["steps"].dtype, found["set"].dtype) == (torch.int64, torch.bool)
