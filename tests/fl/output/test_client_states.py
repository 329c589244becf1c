"""The store of what clients keep. Oracles: a dict that holds everything in memory, and bf16 written out again in NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from compression import Layout
from fl.clock.adaptive import Fractions
from fl.comm.encoder import CodecSchedule, Encoder
from fl.common.errors import DataError
from fl.common.ranks import Ranks
from fl.models.update import Job, Update
from fl.output.client_states import ClientStates, round_to_bf16
from fl.output.stored import Stored

CPU = torch.device("cpu")
ONE = Ranks(
    rank=0, world_size=1, local_rank=0, local_world_size=1, device=CPU, wire_device=CPU, launcher="python", threads=1
)


def opened(folder: Path, budget: int, dtype: torch.dtype = torch.float32) -> ClientStates:
    states = ClientStates(ONE, budget=budget, dtype=dtype, seed=1)
    states.open(folder / "checkpoints")
    return states


def files(folder: Path) -> int:
    return len(list(folder.glob("checkpoints/*")))


def vector(states: ClientStates, client: int) -> list[float]:
    found: list[float] = states.get(client)["sender"]["residual"].tolist()
    return found


def put(states: ClientStates, client: int, *values: float) -> None:
    states.put(client, {"sender": {"residual": torch.tensor(values)}})


@pytest.mark.parametrize("budget", [0, 16, 1000])
@pytest.mark.parametrize("every", [1, 3, 0])
def test_idle_states_leave_memory_and_come_back(tmp_path: Path, budget: int, every: int) -> None:
    """Ten rounds of two clients among seven, with room for no state, two, or all: each is the sum that a dict holds, and
    memory never holds more than the budget. Without a checkpoint no file is left at the end."""
    states = opened(tmp_path, budget)
    expected = {client: torch.zeros(2) for client in range(7)}
    for round_ in range(10):
        for client in sorted({(3 * round_) % 7, (5 * round_ + 1) % 7}):
            old = states.get(client).get("residual", torch.zeros(2))
            assert old.equal(expected[client])
            expected[client] = old + torch.tensor([round_, client])
            states.put(client, {"residual": expected[client].clone()})
            assert states.bytes_in_memory <= budget
        states.commit()
        if every and (round_ + 1) % every == 0:
            for client, kept in states.take_changed().states.items():
                states.write(client, kept)
    assert all(states.get(client)["residual"].equal(expected[client]) for client in range(7))
    states.close()
    assert bool(every) == bool(files(tmp_path))


@pytest.mark.parametrize("budget", [0, 1000])
def test_a_round_that_fails_changes_nothing(tmp_path: Path, budget: int) -> None:
    """What was put, or kept already because its client might start again, is as if it had never been; no file stays."""
    states = opened(tmp_path, budget)
    put(states, 0, 1.0, 2.0)
    states.commit()
    before = files(tmp_path)
    put(states, 0, 3.0, 4.0)
    assert vector(states, 0) == [1.0, 2.0], "it counts from `keep` on"
    states.keep()
    put(states, 1, 5.0)
    assert (vector(states, 0), states.get(1)) == ([3.0, 4.0], {})
    put(states, 0, 6.0, 7.0)
    states.rollback()
    assert (vector(states, 0), states.get(1)) == ([1.0, 2.0], {})
    assert files(tmp_path) == before
    states.rollback()  # of a round in which nobody trained
    put(states, 0, 8.0, 9.0)
    states.commit()
    assert vector(states, 0) == [8.0, 9.0]


@pytest.mark.parametrize("budget", [0, 1000])
def test_what_does_not_arrive_stays_with_its_client(tmp_path: Path, budget: int) -> None:
    """`forget` for one of two; of somebody unknown it is nothing."""
    states = opened(tmp_path, budget)
    for client in (0, 1):
        put(states, client, 1.0)
    states.commit()
    for client in (0, 1):
        put(states, client, 2.0)
    states.forget(0)
    states.forget(2)
    states.commit()
    assert (vector(states, 0), vector(states, 1), states.get(2)) == ([1.0], [2.0], {})


def test_a_file_is_written_once_and_never_again(tmp_path: Path) -> None:
    """A state that left memory before its checkpoint: the checkpoint takes the same file. Later states go elsewhere."""
    states = opened(tmp_path, 0)
    put(states, 5, 1.0)
    states.commit()
    [path] = (tmp_path / "checkpoints").iterdir()
    written = path.stat()
    changed = states.take_changed()
    assert states.write(5, changed.states[5]).number == 1
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    put(states, 5, 2.0)
    states.commit()
    assert files(tmp_path) == 2
    assert states.take_changed().replaced == [path.name]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """One bit, in a run that goes on."""
    states = opened(tmp_path, 0)
    put(states, 0, 1.0)
    states.commit()
    [path] = (tmp_path / "checkpoints").iterdir()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match=rf"{path.name} is damaged"):
        states.get(0)


def _neighbours(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bf16 numbers around fp32 ones, towards zero and away from it: the upper 16 bits, and the next."""
    low = x.view(np.uint32) & 0xFFFF0000
    high = np.where(x.view(np.uint32) == low, low, low + 0x10000).astype(np.uint32)
    return low.view(np.float32), high.view(np.float32)


def test_rounding_to_bf16_loses_nothing_on_average() -> None:
    """Each number becomes one of its two neighbours, with a mean of the number itself; 400 times 30 standard errors at
    most 5. bf16 numbers, zeros and infinities stay."""
    x = torch.randn(30, generator=torch.Generator().manual_seed(1)) * torch.logspace(-30, 30, 30)
    low, high = _neighbours(x.numpy())
    drawn = [round_to_bf16(x, torch.Generator().manual_seed(n)).float().numpy() for n in range(400)]
    assert all(np.all((each == low) | (each == high)) for each in drawn)
    share = np.mean([each == high for each in drawn], axis=0)
    expected = (x.numpy().astype(np.float64) - low) / (high.astype(np.float64) - low)
    assert np.abs(share - expected).max() < 5 * 0.5 / np.sqrt(400)
    exact = torch.tensor([0.0, -0.0, 1.5, -3.0, 2.0**-130, float("inf"), -float("inf")])
    assert round_to_bf16(exact, torch.Generator()).float().equal(exact)
    assert round_to_bf16(torch.arange(3), torch.Generator()).equal(torch.arange(3)), "what is no fp32 stays"


@pytest.mark.parametrize(("dtype", "units"), [(torch.float32, 0.0), (torch.bfloat16, 2.0**-7)])
def test_error_feedback_conserves_what_is_kept(tmp_path: Path, dtype: torch.dtype, units: float) -> None:
    """decoded + kept residual == update + old kept residual: bit for bit in fp32, and in bf16 but for one unit in the last
    place of the kept number."""
    layout = Layout(("w",), ((500,),))
    encoder, states = Encoder(CodecSchedule("topk:0.1"), "residual", Fractions(), layout, 0), opened(tmp_path, 0, dtype)
    for number in range(5):
        old = states.get(0)
        update = Update(
            0, torch.randn(500, generator=torch.Generator().manual_seed(number)), torch.empty(0), 1, 0.0, 0.0
        )
        total = update.values + (old["sender"]["residual.w"].float() if old else 0.0)
        _, decoded, kept = encoder.encode(Job(0, number, number, state=old), update, {}, None)
        states.put(0, {"sender": kept})
        states.commit()
        now = states.get(0)["sender"]["residual.w"].float()
        assert torch.all((decoded.dense() + now - total).abs() <= units * now.abs())


@pytest.mark.parametrize("budget", [0, 1000])
def test_states_in_bf16_are_rounded_whether_they_leave_memory_or_not(tmp_path: Path, budget: int) -> None:
    """The same bits for every budget, after a restart, and on the way there; half of the bytes."""
    states, seen = opened(tmp_path, budget, torch.bfloat16), []
    x = torch.linspace(-1, 1, 50)
    for _ in range(3):
        states.put(3, {"residual": x})
        states.commit()
        kept: Tensor = states.get(3)["residual"]
        assert kept.dtype == torch.bfloat16
        seen.append(kept.float())
    assert not seen[0].equal(seen[1]), "other numbers are rounded up each time"
    [(client, kept_)] = states.take_changed().states.items()
    stored = states.write(client, kept_)
    again = ClientStates(ONE, budget=0, dtype=torch.bfloat16, seed=1)
    again.open(tmp_path / "checkpoints", {3: Stored(stored.number, stored.sha256)})
    assert again.get(3)["residual"].float().equal(seen[-1])
    (tmp_path / "other").mkdir()
    other = opened(tmp_path / "other", 1000 - budget, torch.bfloat16)
    for expected in seen:
        other.put(3, {"residual": x})
        other.commit()
        assert other.get(3)["residual"].float().equal(expected)
