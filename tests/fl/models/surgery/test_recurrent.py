"""Hidden units of LSTMs. Oracle: counting; which rows of the four gates and which columns stay, by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from fl.models.surgery.channels import find_groups
from fl.pruning.structured import shrink
from tests.fl.models.surgery.networks import flat_of, network


class Packed(nn.Module):
    """Reads sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        assert isinstance(packed, PackedSequence)
        _, (hidden, _) = self.lstm(packed)
        return self.fc(hidden[-1])


class Bare(nn.Module):
    """An LSTM whose states are the output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lstm = nn.Linear(5, 6), nn.LSTM(6, 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.fc(x))[0]


def test_rows_and_columns() -> None:
    """Units 1 and 4 of ten stay where they alone have weight."""
    model, example = network("lstm last")
    worth = torch.zeros_like(flat_of(model))
    start = 20 * 12  # the embedding comes first, then weight_ih_l0 [40, 12]
    for unit in (1, 4):
        worth[start + unit * 12] = 1
    sub = shrink(model, 0.8, example, method="gradient", gradient=worth)
    rows = torch.tensor([gate * 10 + unit for gate in range(4) for unit in (1, 4)])
    lstm, small = model.get_submodule("lstm"), sub.model.get_submodule("lstm")
    assert (small.hidden_size, small.input_size) == (2, 12)
    assert torch.equal(small.weight_ih_l0, lstm.weight_ih_l0[rows])
    assert torch.equal(small.weight_hh_l0, lstm.weight_hh_l0[rows][:, [1, 4]])
    assert torch.equal(small.bias_hh_l0, lstm.bias_hh_l0[rows])
    assert sub.model.get_submodule("fc").in_features == 2


def test_directions_choose_their_own_units() -> None:
    """Read side by side they are two groups; stacked into the last hidden state they are one."""
    assert [group.makers for group in find_groups(*network("bilstm last"))][:2] == [
        ("lstm._l0",),
        ("lstm._l0_reverse",),
    ]
    assert find_groups(*network("bilstm hidden"))[0].makers == ("lstm._l0", "lstm._l0_reverse")
    assert shrink(*network("bilstm2 last")[:1], 0.4, network("bilstm2 last")[1]).model.lstm.hidden_size == 6


def test_packed_sequences() -> None:
    """Traced like any other input."""
    example = (torch.randn(3, 4, 5), torch.tensor([4, 3, 1]))
    assert shrink(Packed(), 0.5, example).model.get_submodule("lstm").hidden_size == 3


def test_states_that_are_the_output_stay() -> None:
    """All layers of an LSTM have one hidden size, so none is pruned; what it reads is."""
    groups = find_groups(Bare(), torch.randn(3, 2, 5))
    assert [group.makers for group in groups] == [("fc",)]
    assert shrink(Bare(), 0.5, torch.randn(3, 2, 5)).model.get_submodule("lstm").input_size == 3


def test_refused() -> None:
    """Projected LSTMs, and layers of different hidden sizes."""
    with pytest.raises(ValueError, match="proj_size 3"):
        find_groups(nn.LSTM(5, 6, proj_size=3), torch.randn(4, 2, 5))
    model, example = network("bilstm last")
    with pytest.raises(ValueError, match="one hidden size"):
        shrink(model, 0.4, example, overrides={"lstm._l0": 0.2})
