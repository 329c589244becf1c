"""Profiles. Oracles: figures by hand; that a draw does not depend on the other clients; the shares and ranges asked for."""

import math
from pathlib import Path

import pytest

from compression.spec import SpecError
from fl.clock.profiles import NAMED, NO_LIMITS, PR_FL, Profile, Profiles, parse_profiles, profiles
from fl.common.errors import ConfigError

HEADER = "client,compute_flops,up_bytes,down_bytes,latency_s,loss,jitter\n"


def test_none_takes_no_time() -> None:
    """Work over an infinite speed, and bytes over an infinite bandwidth, are 0 seconds."""
    assert profiles("none", 2, 0) == (NO_LIMITS, NO_LIMITS)
    assert 1e12 / NO_LIMITS.compute_flops == 1e12 / NO_LIMITS.up_bytes == NO_LIMITS.latency_s == 0


def test_named_figures() -> None:
    """Those given by the three-use-case system: 100 Mbit/s are 12.5 MB/s, 75 kbit/s are 9,375 bytes/s."""
    assert list(NAMED) == ["lan", "excellent", "good", "fair", "poor_3g", "2g", "satellite", "congested"]
    links = {name: (p.latency_s, p.up_bytes * 8, p.down_bytes * 8) for name, p in NAMED.items()}
    assert links["excellent"] == (0.002, 100e6, 100e6)
    assert links["poor_3g"] == (0.12, 1e6, 1e6)
    assert links["2g"] == (0.4, 75e3, 75e3)
    assert links["satellite"] == (0.6, 5e6, 5e6)
    for profile in (*NAMED.values(), *PR_FL):
        assert min(profile.compute_flops, profile.up_bytes, profile.down_bytes) > 0
        assert 0 <= profile.loss < 1
        assert 0 <= profile.jitter <= 2


def test_one_name_is_the_same_for_all() -> None:
    """Also one that starts with a digit."""
    assert profiles("2g", 3, 7) == (NAMED["2g"],) * 3
    assert profiles(" lan ", 1, 7) == (NAMED["lan"],)


def test_mix_is_drawn_by_seed_and_client() -> None:
    """Shares within four standard deviations over 2,000 clients; one more client changes no other; another seed does."""
    text = "mix:good=0.5+poor_3g=0.3+2g=0.2"
    drawn = profiles(text, 2000, 1)
    for name, share in (("good", 0.5), ("poor_3g", 0.3), ("2g", 0.2)):
        assert abs(drawn.count(NAMED[name]) - 2000 * share) < 4 * math.sqrt(2000 * share * (1 - share))
    assert profiles(text, 100, 1) == drawn[:100]
    assert profiles(text, 100, 2) != drawn[:100]
    assert profiles("mix:fair=1", 5, 0) == (NAMED["fair"],) * 5


def test_shares_that_only_nearly_add_up() -> None:
    """Thirds that are cut off; spaces, and numbers with a power of ten."""
    text = "mix:good=0.3333333333+fair=0.3333333333+lan=0.3333333334"
    assert len(profiles(text, 50, 0)) == 50
    assert parse_profiles("mix: good = .7 + lan = 3e-1").mix == (("good", 0.7), ("lan", 0.3))


def test_pr_fl_in_the_order_of_its_clients() -> None:
    """Its ten clients as they are; twenty in groups of 4, 4, 4 and 8; five in groups of 1, 1, 1 and 2."""
    ten = profiles("pr-fl", 10, 0)
    assert [p.up_bytes / 1e6 for p in ten] == pytest.approx([5, 4, 3, 2.5, 1.5, 1, 0.6, 0.5, 0.5, 0.4])
    assert [p.down_bytes / 1e6 for p in ten] == pytest.approx([20, 18, 12, 10, 6, 4, 2.5, 2, 2, 1.5])
    assert {p.jitter for p in ten} == {0.3}
    assert profiles("pr-fl", 20, 0) == tuple(p for p in ten for _ in range(2))
    assert profiles("pr-fl", 5, 0) == ten[::2]


def test_compute_is_spread_log_uniformly() -> None:
    """As many below as above the geometric mean 1e10 of 1e9 and 1e11; the links are as they were; by seed and client."""
    drawn = profiles("good,compute=1e9..1e11", 1000, 3)
    speeds = [p.compute_flops for p in drawn]
    assert all(1e9 <= speed <= 1e11 for speed in speeds)
    assert sum(speed < 1e10 for speed in speeds) == pytest.approx(500, abs=65)
    assert sum(math.log10(speed) for speed in speeds) / 1000 == pytest.approx(10, abs=0.08)
    assert {(p.up_bytes, p.latency_s, p.jitter) for p in drawn} == {(12.5e6, 0.02, 0.1)}
    assert profiles("good,compute=1e9..1e11", 10, 3) == drawn[:10]
    assert profiles("good,compute=1e9..1e11", 10, 4) != drawn[:10]


def test_compute_spread_on_the_others() -> None:
    """It leaves what was drawn or listed otherwise alone; LOW = HIGH leaves nothing to draw."""
    plain = profiles("mix:good=0.5+2g=0.5", 20, 5)
    spread = profiles("mix:good=0.5+2g=0.5, compute = 3e9..3e9", 20, 5)
    assert [p.up_bytes for p in spread] == [p.up_bytes for p in plain]
    assert {p.compute_flops for p in spread} == {3e9}
    assert profiles("none,compute=2..2", 1, 0) == (Profile(2, math.inf, math.inf, 0, 0, 0),)
    assert parse_profiles("a,b.csv,compute=1..2") == Profiles(file=Path("a,b.csv"), compute=(1, 2))


def test_devices_that_skip_zeros() -> None:
    """`sparse` before or behind the spread of speeds, behind a file too; it changes no profile."""
    both = Profiles("good", compute=(1, 2), sparse=True)
    assert parse_profiles("good,sparse,compute=1..2") == parse_profiles("good, compute=1..2, sparse") == both
    assert parse_profiles("a,b.csv,sparse") == Profiles(file=Path("a,b.csv"), sparse=True)
    assert profiles("mix:good=0.5+2g=0.5,sparse", 9, 5) == profiles("mix:good=0.5+2g=0.5", 9, 5)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("goood", "not 'goood'; did you mean 'good'?"),
        ("poor3g", "did you mean 'poor_3g'?"),
        ("prfl", "did you mean 'pr-fl'?"),
        ("", "a file NAME.csv, not ''"),
        ("good:1", "'good:1': good takes nothing after a colon, not '1'"),
        ("good,compte=1..2", "profiles have no option 'compte', only compute=LOW..HIGH"),
        ("good,compute=1e9", "as in 1e9..1e11, not '1e9'"),
        ("good,compute=0..1e9", "as in 1e9..1e11, not '0..1e9'"),
        ("good,compute=1e9..inf", "as in 1e9..1e11, not '1e9..inf'"),
        ("good,compute=-1..5", "as in 1e9..1e11, not '-1..5'"),
        ("good,compute=5..4", "LOW must be at most HIGH = 4, not 5"),
        ("good,compute=1..2,compute=1..2", "compute is given twice"),
        ("good,sparse,sparse", "sparse is given twice"),
        ("good,sparse=yes", "profiles have no option 'sparse', only compute=LOW..HIGH and sparse"),
        ("mix", "a part of a mix is NAME=SHARE, not ''"),
        ("mix:good=0.5+fiar=0.5", "not 'fiar=0.5'; did you mean 'fair'?"),
        ("mix:good=0.5+none=0.5", "a part of a mix is NAME=SHARE, not 'none=0.5'"),
        ("mix:good=0.5+good=0.5", "good is there twice"),
        ("mix:good=0.5+fair", "the share of fair must be a number above 0 and at most 1, not ''"),
        ("mix:good=50%+fair=0.5", "not '50%'; did you mean 0.5?"),
        ("mix:good=0+fair=1", "the share of good must be a number above 0 and at most 1, not '0'"),
        ("mix:good=0.5+fair=0.4", "the shares must add up to 1, not 0.9"),
    ],
)
def test_wrong_texts_are_refused(text: str, part: str) -> None:
    """Before anything is drawn or read."""
    with pytest.raises(SpecError) as error:
        parse_profiles(text)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_file(tmp_path: Path) -> None:
    """In any order, with spaces, empty lines and the mark that spreadsheets put in front; its speeds can be spread."""
    path = tmp_path / "links.csv"
    path.write_text("\ufeff" + HEADER + "1, 2e9,3,4,.5,0.25,0\n\n0,1,2,3,0,0,0.1\n", encoding="utf-8")
    assert profiles(str(path), 2, 0) == (Profile(1, 2, 3, 0, 0, 0.1), Profile(2e9, 3, 4, 0.5, 0.25, 0))
    assert [p.compute_flops for p in profiles(f"{path},compute=7..7", 2, 0)] == [7, 7]


@pytest.mark.parametrize(
    ("contents", "part"),
    [
        ("", "line 1: the columns must be client,compute_flops,up_bytes,down_bytes,latency_s,loss,jitter, not ''"),
        ("client,loss\n", "not 'client,loss'"),
        (
            HEADER + "0,1,1,1,0,0,0\n1,0,1,1,0,0,0\n",
            "line 3: compute_flops must be a number above 0 and at most 1e+18, not '0'",
        ),
        (HEADER + "0,1,inf,1,0,0,0\n", "line 2: up_bytes must be a number above 0 and at most 1e+18, not 'inf'"),
        (HEADER + "0,1,1,-1,0,0,0\n", "line 2: down_bytes must be a number above 0 and at most 1e+18, not '-1'"),
        (HEADER + "0,1,1,1,20ms,0,0\n", "line 2: latency_s must be a number from 0 to 1e+06, not '20ms'"),
        (HEADER + "0,1,1,1,0,1,0\n", "line 2: loss must be a number from 0 to below 1, not '1'"),
        (HEADER + "0,1,1,1,0,0,30\n", "line 2: jitter must be a number from 0 to 2, not '30'"),
        (HEADER + "2,1,1,1,0,0,0\n", "line 2: client must be a number from 0 to 1, not '2'"),
        (HEADER + "0,1,1,1,0,0,0\n0,1,1,1,0,0,0\n", "line 3: client 0 is there twice"),
        (HEADER + "0,1,1,1,0,0\n", "line 2: a line is client,compute_flops,"),
        (HEADER + "0,1,1,1,0,0,0\n", "client 1 is missing; each of the 2 clients needs a line"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, contents: str, part: str) -> None:
    """With the option, the file, the line and the value."""
    path = tmp_path / "links.csv"
    path.write_text(contents)
    with pytest.raises(ConfigError) as error:
        profiles(str(path), 2, 0)
    assert str(error.value).startswith(f"--profiles {path}")
    assert part in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Absent, or no text; reading the option alone does not open it."""
    path = tmp_path / "links.csv"
    assert parse_profiles(str(path)).file == path
    with pytest.raises(ConfigError, match="not a readable csv file"):
        profiles(str(path), 2, 0)
    path.write_bytes(HEADER.encode() + b"\0,1,1,1,0,0,0\n")
    with pytest.raises(ConfigError, match="not a readable csv file"):
        profiles(str(path), 2, 0)
