"""What a plan is by itself, by its own words: every client trains, sends and receives all of the model."""

from typing import Any

import torch
from torch import nn

from fl.clock.adaptive import Fractions
from fl.models.state import ModelState
from fl.models.submodel import WHOLE
from fl.pruning.plan import SubmodelPlan


def test_by_itself_a_plan_is_the_whole_model() -> None:
    """No mask, no message beside the update, nothing remembered, nothing to pay; a round that fails changes nothing."""
    state: Any = ModelState(nn.Linear(6, 4), torch.device("cpu"))
    whole: Any = object()
    plan = SubmodelPlan(state, whole)
    weights = state.parameters.clone()
    for ends in (plan.commit, plan.rollback):
        plan.begin(3, [0, 2])
        for client in (0, 2):
            assert plan.submodel(client) is WHOLE
            assert plan.local(client, 3) is whole
            assert plan.held(client) == 28
            assert plan.sections(client) == {}
            assert plan.residual_mask(client) is None
            assert plan.columns(client) == {}
            plan.receive(client, {"update": torch.ones(3).byte()}, 10)
        assert plan.published is WHOLE
        assert not plan.rewound
        assert not plan.static_batchnorm
        assert not plan.new_mask.mask_bytes
        assert plan.sizes([0, 2]) == {}
        plan.learn(torch.ones(28))
        ends()
        plan.observe(3, 0.5)
    assert (plan.differs, plan.damped, plan.state_dict()) == (False, False, {})
    plan.load_state_dict({})
    assert state.parameters.equal(weights)


def test_the_fraction_of_the_model_is_a_column() -> None:
    """Where clients differ, clients.csv says so."""
    state: Any = ModelState(nn.Linear(6, 4), torch.device("cpu"))
    plan = SubmodelPlan(state, None, Fractions([1.0, 0.5], "capability"))  # type: ignore[arg-type]
    assert [plan.columns(client) for client in (0, 1)] == [{"capability": 1.0}, {"capability": 0.5}]
