"""Who takes part, by hand and by counting."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.spec import SpecError
from fl.comm.message import ClientReport
from fl.common.errors import ConfigError
from fl.rounds.sampling import Sampler, parse_sampling
from fl.server.aggregate import Mean
from tests.support import run_here


def report(client: int, loss: float) -> ClientReport:
    """Of a client whose training loss this was."""
    return ClientReport(client, 10, loss, 0.0, 100, 5)


def test_uniform_draws_everybody_alike() -> None:
    """3 of 10 in 4000 rounds: each about 1200 times; three different ones, ascending; the same again."""
    sampler = Sampler("uniform", [1] * 10, seed=3)
    counts: Counter[int] = Counter()
    for round_ in range(4000):
        drawn = sampler.draw(range(10), 3, round_)
        assert drawn == sorted(set(drawn))
        counts.update(drawn)
    assert all(1080 < count < 1320 for count in counts.values())
    assert sampler.draw(range(10), 3, 7) == Sampler("uniform", [1] * 10, seed=3).draw(range(10), 3, 7)
    assert sampler.draw(range(3), 5, 0) == [0, 1, 2]


def test_with_a_probability_each_takes_part_by_itself() -> None:
    """10 clients with probability 0.3 in 4000 rounds: each about 1200 times, a round's number binomial with variance
    10 * 0.3 * 0.7, pairs together in 0.09 of the rounds. Whoever is not asked changes nothing for the others."""
    sampler = Sampler("uniform", [1] * 10, seed=3, probability=0.3)
    drawn = [set(sampler.draw(range(10), 3, round_)) for round_ in range(4000)]
    assert all(1080 < sum(client in one for one in drawn) < 1320 for client in range(10))
    sizes = torch.tensor([float(len(one)) for one in drawn])
    assert float(sizes.var()) == pytest.approx(2.1, rel=0.1)
    assert 300 < sum({4, 7} <= one for one in drawn) < 420
    assert sampler.draw([8, 2, 5], 3, 17) == sorted(drawn[17] & {2, 5, 8})
    assert Sampler("uniform", [1] * 10, seed=3, probability=1.0).draw(range(10), 3, 0) == list(range(10))


def test_by_samples() -> None:
    """Of two clients with 1 and 9 samples one is drawn in a tenth of the rounds."""
    sampler = Sampler("samples", [1, 9], seed=0)
    first = sum(sampler.draw([0, 1], 1, round_) == [0] for round_ in range(4000))
    assert 320 < first < 480


_DRAWN = {
    "clients": 6,
    "clients_per_round": 2,
    "partition": "quantity:1",
    "limit_train": 150,
    "local_steps": 1,
    "rounds": 3,
}


@pytest.mark.parametrize(
    ("alike", "options"),
    [
        (True, {"sampling": "samples"}),
        (True, {"sampling": "power:3"}),
        (True, {"sampling": "samples", "algorithm": "fednova"}),
        (True, {"sampling": "samples", "mode": "buffered:2"}),
        (True, {"sampling": "power:3", "deadline": 1e6, "over_select": 1.5, "profiles": "good"}),
        (True, {"sampling": "samples", "prune": "width:1", "capabilities": "uniform:0.5,1"}),
        (False, {"sampling": "uniform"}),
        (False, {"sampling": "diurnal:10,0.9"}),
        (False, {"sampling": "samples", "clients_per_round": 6}),
    ],
)
def test_who_is_drawn_by_samples_counts_alike(
    alike: bool, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Li et al. 2020, Scheme I, and Cho et al. 2020: the mean over those drawn is plain. Where samples do not decide, or
    everybody takes part, they are the weights."""
    weights, samples, add, observe = [], [], Mean.add, Sampler.observe

    def adding(self: Mean, update: Any, buffers: Any, weight: int, *args: Any, **options: Any) -> None:
        weights.append(weight)
        add(self, update, buffers, weight, *args, **options)

    def observing(self: Sampler, reports: Any) -> None:
        samples.extend(each.samples for each in reports)
        observe(self, reports)

    monkeypatch.setattr(Mean, "add", adding)
    monkeypatch.setattr(Sampler, "observe", observing)
    run_here(tmp_path, "run", **{**_DRAWN, **options})
    assert len(set(samples)) > 1
    assert weights == ([1] * len(samples) if alike else samples)


def test_power_of_choice_prefers_large_losses_and_who_has_none() -> None:
    """With D = all: the largest losses; a client without one comes first; a round that failed has none."""
    sampler = Sampler("power:4", [1, 1, 1, 1], seed=0)
    sampler.observe([report(0, 0.5), report(1, 2.0), report(2, 1.0)])
    sampler.commit()
    assert sampler.draw(range(4), 1, 0) == [3]
    assert sampler.draw(range(4), 2, 0) == [1, 3]
    sampler.observe([report(3, 9.0)])
    sampler.rollback()
    sampler.observe([report(3, 0.1)])
    sampler.commit()
    assert sampler.draw(range(4), 2, 5) == [1, 2]
    seen = {tuple(Sampler("power:2", [1, 1, 1, 1], seed=s).draw(range(4), 1, 0)) for s in range(30)}
    assert len(seen) == 4, "D candidates are drawn first"


def test_days() -> None:
    """Each client is up for 3 of every 10 rounds, without a break, and all clients differ."""
    sampler = Sampler("diurnal:10,0.3", [1] * 20, seed=1)
    for client in range(20):
        up = [round_ for round_ in range(10) if sampler._waits(client, round_) == 0]
        assert len(up) == 3
        assert {(b - a) % 10 for a, b in zip(up, up[1:] + up[:1], strict=True)} <= {1, 8}
    assert len({tuple(sampler._waits(client, r) for r in range(10)) for client in range(20)}) > 3
    for round_ in range(10):
        drawn = sampler.draw(range(20), 2, round_)
        up = [client for client in range(20) if sampler._waits(client, round_) == 0]
        assert set(drawn) <= set(up) or len(up) < 2


def test_a_trace(tmp_path: Path) -> None:
    """Client 0 is up in rounds 0 to 2 and 8 to 9, client 1 from 5 on; 2 never: it comes last."""
    path = tmp_path / "up.csv"
    path.write_text("client,first_round,last_round\n0,0,2\n0,8,9\n1,5,100\n")
    sampler = Sampler(str(path), [1, 1, 1], seed=0)
    assert [sampler.draw(range(3), 1, round_) for round_ in (0, 3, 5, 10)] == [[0], [1], [1], [1]]
    assert sampler.draw(range(3), 2, 9) == [0, 1]
    assert sampler.draw(range(3), 3, 0) == [0, 1, 2], "places are filled"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_a_trace_as_a_spreadsheet_saves_it(tmp_path: Path, encoding: str) -> None:
    """A mark in front, UTF-16 and Windows' line ends change nothing. Oracle: who is up."""
    path = tmp_path / "up.csv"
    path.write_bytes("client,first_round,last_round\r\n1, 0,2\r\n\r\n".encode(encoding))
    assert Sampler(str(path), [1, 1], seed=0).draw([0, 1], 1, 1) == [1]


@pytest.mark.parametrize("content", [b"\0\1\2\3", b"\x1f\x8b\0", b'client,"' + b"x" * 200_000 + b'"\n', None])
def test_a_trace_that_is_no_table(tmp_path: Path, content: bytes | None) -> None:
    """Nothing, no text, an archive that is cut off, a cell without end: one sentence that names the option and the file."""
    path = tmp_path / "up.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^--sampling .*up\.csv: not a readable csv file \("):
        Sampler(str(path), [1, 1], seed=0)


def _draw(sampler: Sampler, count: int, now: float) -> list[int]:
    return sampler.draw([0, 1], count, 0, now=now)


def test_in_virtual_time(tmp_path: Path) -> None:
    """Up for half of every 10 s: then no wait, otherwise until the next begin. And from a file, in seconds."""
    sampler = Sampler("diurnal:10s,0.5", [1] * 5, seed=1)
    assert sampler.by_time
    for client in range(5):
        waits = [sampler.wait_s(client, tenth / 10) for tenth in range(200)]
        assert sum(wait == 0 for wait in waits) == pytest.approx(100, abs=1)
        assert all(sampler.wait_s(client, tenth / 10 + wait + 1e-6) == 0 for tenth, wait in enumerate(waits))
        assert max(waits) <= 5
    path = tmp_path / "up.csv"
    path.write_text("client,first_s,last_s\n0,0,2.5\n1,5,100\n")
    sampler = Sampler(str(path), [1, 1], seed=0)
    assert [_draw(sampler, 1, now) for now in (1.0, 2.6, 4.0)] == [[0], [1], [1]]
    assert [sampler.wait_s(1, now) for now in (0.0, 4.5, 6.0)] == [5.0, 0.5, 0.0]
    assert _draw(sampler, 2, 4.0) == [1], "who will never be up again fills no place"
    assert _draw(sampler, 2, 200.0) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("diurnal:xs,1", "PERIOD"),
        ("unifrm", "did you mean 'uniform'"),
        ("power:0", "D"),
        ("diurnal:0,1", "PERIOD"),
        ("samples:1", "argument"),
    ],
)
def test_what_cannot_be_meant(text: str, words: str) -> None:
    """In one sentence."""
    with pytest.raises(SpecError, match=words):
        parse_sampling(text)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("client,from\n0,1\n", "columns"),
        ("client,first_round,last_round\n0,x,2\n", "line 2"),
        ("client,first_s,last_s\n0,x,2\n", "line 2"),
        ("client,first_round,last_round\n9,0,2\n", "from 0 to 2"),
    ],
)
def test_a_trace_that_cannot_be_used(body: str, words: str, tmp_path: Path) -> None:
    """The line is named."""
    path = tmp_path / "up.csv"
    path.write_text(body)
    with pytest.raises(ConfigError, match=words):
        Sampler(str(path), [1, 1, 1], seed=0)
