"""Models that cannot be trained or exchanged are refused before a run. Oracle: the words of the messages."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fl.common.config import ModelOptions
from fl.common.errors import ConfigError
from fl.models import build_model
from fl.models.state import ModelState
from fl.training.tasks import Classification
from tests.user_models import Answering, Counting, Head

MADE: dict[str, Any] = {}
COUNTED: list[int] = []


def made(classes: int, in_channels: int) -> Any:
    """What the test at work wants."""
    return MADE["make"]()


def build(make: Callable[[], Any], seed: int = 0) -> nn.Module:
    """The user's network `make()` for images of 3x8x8 and two classes."""
    MADE["make"] = make
    return build_model(
        ModelOptions(model="tests.fl.models.test_trial:made"), classes=2, in_channels=3, image_size=8, seed=seed
    )


def check(model: nn.Module) -> None:
    """As before a run."""
    Classification(2).check_model("own", model, torch.ones(2, 3, 8, 8), torch.tensor([0, 1]))


class Own(Head):
    """A network whose forward pass is the test's."""

    def __init__(self, function: Callable[["Own", Tensor], Any]) -> None:
        super().__init__(2, 3)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        """Whatever it is."""
        return self.function(self, x)


class Extra(Head):
    """Has state that is no tensor."""

    def get_extra_state(self) -> Any:
        """A number."""
        return 3


def with_buffer(tensor: Tensor, persistent: bool = True) -> nn.Module:
    """A network that has this buffer."""
    model = Head(2, 3)
    model.register_buffer("own", tensor, persistent=persistent)
    return model


def fail(error: Exception) -> Any:
    """Raise it."""
    raise error


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: None, "must return a torch.nn.Module, not NoneType"),
        (lambda: Head, "must return a torch.nn.Module, not type"),
        (
            lambda: fail(KeyError("width")),
            r"fails when it is called as made(2, 3) (KeyError: 'width'; test_trial.py, line ",
        ),
        (lambda: nn.Flatten(), "has no parameters, so there is nothing to train"),
        (lambda: Head(2, 3).requires_grad_(False), "all 2 parameters are frozen (requires_grad is False)"),
        (lambda: with_buffer(torch.zeros(2, dtype=torch.complex64)), "'own' is complex"),
        (lambda: complex_weights(), "'net.2.weight' is complex"),
        (lambda: with_buffer(torch.eye(2).to_sparse()), "'own' is sparse_coo"),
        (lambda: Head(2, 3).to("meta"), "'net.2.weight' lies on the device meta"),
        (lambda: Extra(2, 3), "it has get_extra_state()"),
        (lambda: nn.Sequential(Extra(2, 3)), "0 has get_extra_state()"),
        (
            lambda: nn.ModuleList([nn.LazyLinear(2)]),
            "must take a batch of samples of shape [3, 8, 8], float32, and ",
        ),
        (lambda: unreached(), "lazily shaped layers"),
    ],
)
def test_networks_that_cannot_be_used(make: Callable[[], Any], says: str) -> None:
    """When it is built."""
    with pytest.raises(
        ConfigError, match=re.escape("--model tests.fl.models.test_trial:made") + ".*" + re.escape(says)
    ):
        build(make)


def complex_weights() -> nn.Module:
    """A layer of complex weights."""
    model = Head(2, 3)
    model.net[2].weight = nn.Parameter(model.net[2].weight.to(torch.complex64))
    return model


def unreached() -> nn.Module:
    """A lazily shaped layer that nothing goes through."""
    model = Own(lambda own, x: own.net(x))
    model.lazy = nn.LazyLinear(2)
    return model


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (
            lambda own, x: torch._assert(x.shape[-1] == 224, "Wrong height"),
            "in evaluation (AssertionError: Wrong height;",
        ),
        (lambda own, x: [1][2], "(IndexError: list index out of range; test_trial.py"),
        (lambda own, x: {}["image"], "(KeyError: 'image';"),
        (lambda own, x: own.nothing, "(AttributeError: "),
        (lambda own, x: own.net(x) if not own.training else fail(ValueError("no")), "in training (ValueError: no;"),
        (
            lambda own, x: {"scores": own.net(x)},
            "not dict in evaluation: return that tensor, a tuple that begins with it, or an object or dict ",
        ),
        (lambda own, x: (0, own.net(x)) if own.training else own.net(x), "not tuple in training"),
        (lambda own, x: own.net(x)[:, :1], "one output for each of the 2 classes"),
        (lambda own, x: own.net(x) / 0, "gives NaN or infinity for the first samples in evaluation"),
        (lambda own, x: own.net(x).detach(), "has outputs that no gradient comes back from"),
        (lambda own, x: own.net(x).long(), "must give floating-point outputs"),
        (lambda own, x: torch.set_default_dtype(torch.float64) or own.net(x), "sets torch's default type"),
    ],
)
def test_forward_passes_that_fail(forward: Callable[[Own, Tensor], Any], says: str) -> None:
    """In either mode, whatever is raised; torch's settings stay, and so does the mode."""
    model = build(lambda: Own(forward))
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        check(model)
    assert "\n" not in str(caught.value)
    assert model.training
    assert torch.get_default_dtype() == torch.float32


def test_a_trial_leaves_nothing_behind() -> None:
    """Oracle: the state before, the generator too; only counts that training changes are marked."""
    model = build(lambda: nn.Sequential(nn.BatchNorm2d(3), Counting(2, 3)))
    before, generator = {name: t.clone() for name, t in model.state_dict().items()}, torch.get_rng_state()
    check(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert model[1].averaged_counts == ("steps", "begun")
    assert not hasattr(model[0], "averaged_counts")


def test_outputs_are_the_logits_in_both_modes() -> None:
    """Of a dataclass, and of a named tuple in training."""
    model = build(lambda: Answering(2, 3))
    check(model)
    assert model(torch.ones(4, 3, 8, 8)).shape == model.eval()(torch.ones(4, 3, 8, 8)).shape == (4, 2)


def test_lazy_layers_follow_from_the_seed() -> None:
    """Oracles: the same seed again, another; the shapes that the samples give; and statistics of no batch."""

    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(2))

    first, again, other = (build(lazy, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first[3].weight, again[3].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert first[3].weight.shape == (2, 4 * 36)
    assert first[1].running_mean.eq(0).all()


def test_a_scripted_network() -> None:
    """Trains as the one that it was made of."""
    model = build(lambda: torch.jit.script(Head(2, 3)))
    check(model)
    assert torch.equal(model.net[2].weight, build(lambda: Head(2, 3)).net[2].weight)


def test_complex_tables_outside_the_state_stay() -> None:
    """A table of rotations, as for positions: not an imaginary part less."""
    table = torch.polar(torch.ones(3), torch.arange(3.0))
    model = build(lambda: with_buffer(table, persistent=False))
    assert torch.equal(model.own, table)


def _own_generator(own: Own, x: Tensor) -> Tensor:
    return own.net(x * np.random.default_rng().random() if own.training else x)


def _own_count(own: Own, x: Tensor) -> Tensor:
    COUNTED.append(1)
    return own.net(x / len(COUNTED))


@pytest.mark.parametrize(("forward", "mode"), [(_own_generator, "training"), (_own_count, "evaluation")])
def test_outputs_that_do_not_replay(forward: Callable[[Own, Tensor], Any], mode: str) -> None:
    """From a generator that has no seed, and from a list of the module that it is written in."""
    with pytest.raises(ConfigError, match=f"gives other outputs each time in {mode}, so a run would not replay"):
        check(build(lambda: Own(forward)))


def test_a_trial_gives_back_weights_that_a_forward_pass_changes() -> None:
    """Those that it clips, and whether it freezes them. Oracle: the weights before."""

    def clipping(own: Own, x: Tensor) -> Tensor:
        own.net[2].bias.requires_grad_(False)
        with torch.no_grad():
            own.net[2].weight.clamp_(-0.01, 0.01)
        return own.net(x)

    model = build(lambda: Own(clipping))
    before = model.net[2].weight.detach().clone()
    check(model)
    assert torch.equal(model.net[2].weight, before)
    assert model.net[2].bias.requires_grad


def test_a_function_that_exits() -> None:
    """As argparse does with options that it does not know."""

    def exits() -> nn.Module:
        raise SystemExit(2)

    with pytest.raises(ConfigError, match=r"fails when it is called as made\(2, 3\) \(SystemExit: 2"):
        build(exits)


def test_masks_with_infinity_are_not_averaged() -> None:
    """They keep their values; other tables of floats are averaged as before."""
    mask = torch.full((2, 2), -torch.inf).triu(1)
    model = build(lambda: nn.Sequential(with_buffer(mask), nn.BatchNorm2d(3), Head(2, 3)))
    state = ModelState(model, torch.device("cpu"))
    assert state.buffer_layout.names == ("1.running_mean", "1.running_var")
    assert torch.equal(state.state_dict()["0.own"], mask)


class Words(nn.Module):
    """A table of words: in a layer, or by hand."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 2, sparse=True) if layer else nn.Parameter(torch.ones(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        words = x.flatten(1).long()
        if isinstance(self.table, nn.Embedding):
            return self.table(words).sum(1)
        return nn.functional.embedding(words, self.table, sparse=True).sum(1)


def test_sparse_gradients() -> None:
    """A layer's are made dense; those of no layer are refused before anything is trained, with the parameter's name."""
    model = build(lambda: Words(layer=True))
    check(model)
    assert not model.get_submodule("table").sparse
    with pytest.raises(ConfigError, match="of its parameter table is sparse; leave out sparse=True"):
        check(build(lambda: Words(layer=False)))
