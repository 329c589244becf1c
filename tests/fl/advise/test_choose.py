"""Links and the choice. Oracle: sums written out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from compression.describe import Description
from fl.advise.choose import Round, front, recommend
from fl.advise.confirm import rounds_until
from fl.advise.links import links_of, read_link, slowest_s
from fl.advise.measure import Measured
from fl.clock.profiles import NAMED
from fl.common.config import Config
from fl.common.errors import ConfigError


def codec(spec: str, size: int, behind: float = 0.0, coding_s: float = 0.0) -> Measured:
    """A codec of a million coordinates whose encoding and decoding take as long."""
    return Measured(
        Description(spec, 10**6, 1, size, 4_000_024, coding_s, coding_s), 0.0, 1.0, 1.0, behind, "powersgd" in spec
    )


def link(text: str, **options: object) -> tuple[object, ...]:
    config, one = read_link(text, Config(clients=2, clients_per_round=2, **options))  # type: ignore[arg-type]
    return links_of(one, config)


def test_links() -> None:
    """10 Mbit/s are 1.25e6 bytes/s, and 2 MB take 1.6 s; latency counts for each transfer."""
    assert slowest_s(link("10"), 10**6, 10**6) == pytest.approx(1.6)  # type: ignore[arg-type]
    assert slowest_s(link("10/40,latency=50"), 10**6, 10**6) == pytest.approx(0.8 + 0.2 + 0.1)  # type: ignore[arg-type]
    assert link("poor_3g") == (NAMED["poor_3g"],) * 2
    shared = link("10", server_up_limit=1e6)
    assert slowest_s(shared, 10**6, 0) == pytest.approx(2)  # type: ignore[arg-type]


def test_the_profiles_of_the_run_and_of_a_file(tmp_path: Path) -> None:
    """Without --link they count; the slowest client of a file decides."""
    config, one = read_link(None, Config(profiles="2g", clients=1, clients_per_round=1))
    assert links_of(one, config) == (NAMED["2g"],)
    file = tmp_path / "clients.csv"
    header = "client,compute_flops,up_bytes,down_bytes,latency_s,loss,jitter\n"
    file.write_text(f"{header}0,1e9,1e6,1e6,0,0,0\n1,1e9,1e5,1e5,0,0,0\n")
    assert slowest_s(link(str(file)), 10**5, 10**5) == pytest.approx(2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="--link is missing"):
        read_link(None, Config())


def test_a_round_by_hand() -> None:
    """Training 1 s, three clients: 1 + (2 + 3 * 2) + (1 + 1) of coding + 8 * (1e5 + 2e5) / 1e6 of transfers. Rounds
    multiply: 1 / (1 - 0.36) / (1 - 0.25)."""
    config, one = read_link("1", Config(clients=3, clients_per_round=3))
    here = Round(links_of(one, config), 3, 1.0, "residual")
    pair = here.pair(codec("up", 10**5, 0.6, 2.0), codec("down", 2 * 10**5, 0.5, 1.0))
    assert pair.round_s == pytest.approx(1 + 8 + 2 + 2.4)
    assert pair.rounds == pytest.approx(1 / 0.64 / 0.75)
    assert pair.seconds == pytest.approx(13.4 / 0.48)


def test_the_recommendation() -> None:
    """The fastest, unless another within 5 % needs fewer rounds; never one of more than twice the rounds, nor one that
    diverges, nor low rank, however few its bytes."""
    config, one = read_link("1", Config(clients=1, clients_per_round=1))
    here = Round(links_of(one, config), 1, 1.0, "residual")
    dense = codec("none", 4_000_024)
    close, small = codec("topk:0.05", 20_000, 0.1), codec("topk:0.01", 14_000, 0.2)
    far = [codec("topk:0.001", 10, 0.8), codec("sign", 10, 1.5), codec("powersgd:2", 10, 0.0)]
    found = here.pairs([dense, close, small, *far], [dense])
    assert recommend(found).specs == ("topk:0.05", "none")
    assert math.isinf(codec("x", 1, 1.0).rounds)
    alone = here.pairs([dense, *far], [dense])
    assert recommend(alone).specs == ("none", "none")


def test_the_front() -> None:
    """Fewer bytes for more rounds; one that another beats in both is not on it."""
    a, b, beaten, c = codec("a", 100), codec("b", 50, 0.3), codec("d", 60, 0.4), codec("c", 10, 0.5)
    assert front([c, beaten, a, b]) == [a, b, c]


@pytest.mark.parametrize(("score", "rounds"), [(0.1, 0), (0.2, 1), (0.35, 1.5), (0.6, 3), (0.7, 3.5), (0.9, 4)])
def test_rounds_until_a_score(score: float, rounds: float) -> None:
    """Between 0.2, 0.5, 0.6 (after it fell to 0.4) and 0.8 in proportion; before the first 0, after
    the best the last."""
    curve = np.array([0.2, 0.5, 0.6, 0.8])
    assert rounds_until(np.arange(1.0, 5), curve, score) == pytest.approx(rounds)
