"""`leanfed compare`. Oracle: small run folders made by hand, and arithmetic in the docstrings."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError, DataError
from fl.compare.__main__ import compare, main
from fl.compare.break_even import cost_to


def make_run(
    folder: Path,
    *,
    accuracy: tuple[float | str, ...],
    up: int,
    down: int,
    train_s: tuple[float, ...] = (1.0,),
    flops: float | tuple[float, ...] | str = 4e9,
    own_s: float | str = "",
    **config: Any,
) -> Path:
    """A run whose clients, as many as `train_s`, each send `up` and receive `down` bytes in every round."""
    folder.mkdir()
    clients = len(train_s)
    each_flops = flops if isinstance(flops, tuple) else [flops and float(flops) / clients] * clients
    with open(folder / "metrics.csv", "w", newline="") as file:
        columns = "round,time_s,train_s,exchange_s,eval_s,train_loss,val_loss,val_accuracy,val_macro_f1,test_loss,"
        columns += (
            "test_accuracy,test_macro_f1,clients,rejected,samples,uplink_bytes,downlink_bytes,uplink_dense_bytes,"
        )
        columns += "downlink_dense_bytes,uplink_ratio,kept_fraction,update_norm,sparsity,mask_bytes,virtual_time_s,"
        writer = csv.DictWriter(file, f"{columns}train_flops,client_memory_bytes".split(","), restval="")
        writer.writeheader()
        for number, value in enumerate(accuracy):
            row = {"round": number, "val_accuracy": value, "test_accuracy": value and value - 0.01}
            row |= {"uplink_bytes": up * clients, "downlink_bytes": down * clients}
            row |= {"val_loss": value and 1.0}
            writer.writerow(row | {"virtual_time_s": own_s and own_s * (number + 1)})
    with open(folder / "clients.csv", "w", newline="") as file:
        names = (
            "round,client,rank,samples,train_s,train_flops,uplink_bytes,downlink_bytes,start_s,ready_s,sent_s,arrive_s"
        )
        writer = csv.DictWriter(file, names.split(","), restval="")
        writer.writeheader()
        for number in range(len(accuracy)):
            for client, seconds in enumerate(train_s):
                row = {"round": number, "client": client, "rank": 0, "samples": 10, "train_s": seconds}
                row |= {"uplink_bytes": up, "downlink_bytes": down, "train_flops": each_flops[client]}
                writer.writerow(row | ({"ready_s": 1.0, "sent_s": 1.0 + seconds} if own_s else {}))
    (folder / "config.json").write_text(json.dumps({"dataset": "digits", "mode": "sync", **config}))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """dense: 0.5 after 2 rounds of 1 MB up, 1 MB down and 1 s. topk: after 4 rounds of 0.1 MB up, 0.15 MB down and 2 s."""
    dense = make_run(tmp_path / "dense", accuracy=(0.2, 0.5, 0.6), up=1_000_000, down=1_000_000, uplink="none")
    topk = make_run(
        tmp_path / "topk", accuracy=(0.1, "", 0.4, 0.5), up=100_000, down=150_000, train_s=(2.0,), uplink="topk:0.1"
    )
    return [dense, topk]


def test_break_even_by_hand(pair: list[Path]) -> None:
    """The target is the lower best, 0.5. To it dense needs C = 2 * 1 s and D = 2 * 2 MB, topk 4 * 2 s and 4 * 0.25 MB:
    8 (4 - 1) MB / (8 - 2) s = 4 Mbit/s. On a link of just that both take 2 + 32 / 4 = 8 + 8 / 4 = 10 s; on half of it
    18 and 12 s, on twice 6 and 9 s."""
    found = compare(pair, "4", None, None)
    assert found.target == 0.5
    (between,) = found.pairs
    assert (between.fewer, between.other) == ("topk", "dense")
    assert between.bits_per_s == pytest.approx(4e6, rel=1e-12)
    assert "below 4 Mbit/s" in between.words()
    for link, seconds in (("4", (10, 10)), ("2", (18, 12)), ("8", (6, 9))):
        runs = compare(pair, link, "train_s", 0.5).runs
        assert [run.seconds[run.reach(0.5)] for run in runs] == pytest.approx(seconds, rel=1e-12)


def test_what_sends_and_computes_less_is_sooner_on_every_link(tmp_path: Path) -> None:
    """Fewer bytes in as many rounds, computing no longer; and two that are alike."""
    dense = make_run(tmp_path / "dense", accuracy=(0.5,), up=1000, down=1000)
    small = make_run(tmp_path / "small", accuracy=(0.5,), up=10, down=10, train_s=(0.5,))
    again = make_run(tmp_path / "again", accuracy=(0.5,), up=1000, down=1000)
    said = [pair.words() for pair in compare([dense, small, again], "1", None, 0.5).pairs]
    assert said[0] == "small is sooner than dense on every link"
    assert said[1] == "dense and again take equally long on every link"
    assert said[2] == "small is sooner than again on every link"


def test_time_on_a_profile(tmp_path: Path) -> None:
    """poor_3g: 125,000 bytes/s, latency 0.12 s, loss 0.005, 1e10 FLOP/s. Of two clients the slower one has 2e9 operations
    a round: 0.2 s; so a round is 2 * 0.12 + (124,375 + 248,750) / 124,375 + 0.2 = 3.44 s. With train_s it is that one's
    2 s instead: 5.24 s. Latencies count in the break-even's C: 2 * 0.12 s a round."""
    unequal: dict[str, Any] = {"train_s": (1.0, 2.0), "flops": (3e8, 2e9)}
    folders = [
        make_run(tmp_path / name, accuracy=(0.4, 0.5), up=124_375, down=248_750 * times, **unequal)
        for name, times in (("one", 1), ("two", 2))
    ]
    by_flops, by_train = (compare(folders, "poor_3g", how, None) for how in (None, "train_s"))
    assert by_flops.runs[0].seconds == pytest.approx([3.44, 6.88])
    assert by_train.runs[0].seconds == pytest.approx([5.24, 10.48])
    cost = cost_to(by_train.runs[0], 0.5, by_train.link.latency_s)
    assert (cost.seconds, cost.link_bytes) == (pytest.approx(2 * (2.0 + 0.24)), 2 * 373_125)


def test_own_virtual_time(tmp_path: Path) -> None:
    """7 s a round, as metrics.csv has it; computing is what clients.csv says. Without virtual time it is refused."""
    folders = [make_run(tmp_path / name, accuracy=(0.4, 0.5), up=5, down=5, own_s=7.0) for name in ("a", "b")]
    runs = compare(folders, "own", None, None).runs
    assert runs[0].seconds.tolist() == [7.0, 14.0]
    assert [cost.compute_s for cost in runs[0].costs] == [1.0, 1.0]
    without = make_run(tmp_path / "without", accuracy=(0.5,), up=5, down=5)
    with pytest.raises(DataError, match=r"--link own: .*without was run without --profiles"):
        compare([folders[0], without], "own", None, None)


def test_dropped_clients_are_waited_for_by_nobody(tmp_path: Path) -> None:
    """A row without samples, of 1,000 s, changes no time."""
    folder = make_run(tmp_path / "a", accuracy=(0.5,), up=125_000, down=0)
    with open(folder / "clients.csv", "a") as file:
        file.write("0,1,0,0,1000,,999999,999999,,,,\n")
    other = make_run(tmp_path / "b", accuracy=(0.5,), up=125_000, down=0)
    runs = compare([folder, other], "1", None, None).runs
    assert runs[0].seconds.tolist() == runs[1].seconds.tolist() == [2.0]


def test_everything_is_written(pair: list[Path], tmp_path: Path, capsys: Any) -> None:
    """The same figures in compare.csv, compare.md, on the terminal and in the page, which names no address."""
    out = tmp_path / "out"
    main([*map(str, pair), "--link", "4", "--output", str(out)])
    with open(out / "compare.csv", newline="") as file:
        dense, topk = csv.DictReader(file)
    assert (dense["uplink_bytes"], dense["uplink_bytes_to_target"]) == ("3000000", "2000000")
    assert (topk["rounds"], topk["rounds_to_target"], float(topk["link_s_to_target"])) == ("4", "4", 10.0)
    assert (dense["final_test_accuracy"], dense["best_val_round"]) == ("0.59", "2")
    text = (out / "compare.md").read_text()
    assert "| topk | 4 | 0.400 MB | 0.600 MB | 1.000 MB | 10.0 s |" in text
    assert "topk is sooner than dense below 4 Mbit/s" in text
    assert "| uplink | none | topk:0.1 |" in text
    assert "below 4 Mbit/s" in capsys.readouterr().out
    page = re.sub(r"base64,[^\"]*", "", (out / "compare.html").read_text())
    assert "dense against topk" in page
    assert 'data-value="1000000.0">1,000,000<' in page
    assert re.search(r"https?://", page) is None
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    with open(out / "break_even.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["bits_per_s"]) == 4e6


def test_runs_of_a_version_without_operations(pair: list[Path]) -> None:
    """Without the column train_flops only --compute flops is refused."""
    for folder in pair:
        lines = [line.split(",") for line in (folder / "clients.csv").read_text().splitlines()]
        at = lines[0].index("train_flops")
        (folder / "clients.csv").write_text("\n".join(",".join(cells[:at] + cells[at + 1 :]) for cells in lines))
    assert compare(pair, "4", None, None).pairs[0].bits_per_s == pytest.approx(4e6)
    with pytest.raises(DataError, match="the operations of dense are not known; use --compute train_s"):
        compare(pair, "fair", None, None)


def test_rounds_after_the_last_score_count(tmp_path: Path) -> None:
    """Four rounds of which two have a score: the best is of round 1, bytes and seconds of the whole run are of all four.
    The last evaluated round is round 3, if it has a loss though no score, or else round 1."""
    for name, last in (("a", None), ("b", 0.59)):
        folder = make_run(tmp_path / name, accuracy=(0.2, 0.6, "", ""), up=125_000, down=0)
        if last is None:
            with open(folder / "metrics.csv", newline="") as file:
                lines = list(csv.DictReader(file))
            lines[3]["val_loss"] = "9.5"
            with open(folder / "metrics.csv", "w", newline="") as file:
                writer = csv.DictWriter(file, list(lines[0]))
                writer.writeheader()
                writer.writerows(lines)
        found = compare([folder, make_run(tmp_path / f"{name}2", accuracy=(0.6,), up=1, down=0)], "1", None, None)
        cells = found.cells(found.runs[0])
        assert (cells["rounds"], cells["uplink_bytes"], cells["link_s"]) == (4, 500_000, 8.0)
        assert (cells["final_test_accuracy"], cells["best_val_round"]) == (last, 1)
        assert (cells["rounds_to_target"], cells["link_s_to_target"]) == (2, 4.0)


def test_why_there_is_no_break_even(tmp_path: Path) -> None:
    """Runs that reach the target, but whose rounds wait for nobody; and runs that are compared without a link."""
    made = {"accuracy": (0.5,), "up": 5, "down": 5, "own_s": 7.0, "mode": "buffered:2"}
    folders = [str(make_run(tmp_path / name, **made)) for name in ("a", "b")]
    for link, said in (
        ("own", "do not wait for their slowest client"),
        ("none", "Without a link there is no break-even"),
    ):
        main([*folders, "--link", link, "--output", str(tmp_path / link)])
        assert said in (tmp_path / link / "compare.md").read_text()
    assert (
        "| a | 49.00% | 50.00% (round 0) | 1 | 0.000 MB | 0.000 MB | - |" in (tmp_path / "none/compare.md").read_text()
    )


def test_a_target_that_one_does_not_reach(pair: list[Path]) -> None:
    """Only dense reaches 0.6: no break-even, and a dash in the table."""
    found = compare(pair, "4", None, 0.6)
    assert found.pairs == []
    assert found.tables()[1].rows[1] == ["topk", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("change", "link", "words"),
    [
        ({"dataset": "mnist"}, "4", "is of the data set mnist, .* of digits: their scores cannot be compared"),
        ({"accuracy": ("", "")}, "4", "has no evaluation on validation data"),
        ({"mode": "buffered:2"}, "4", "--mode buffered:2 or a deadline.*use --link own"),
        ({"mode": "step"}, "4", "--mode step or a deadline.*use --link none"),
        ({"accuracy": ()}, "4", "b has no finished round"),
        ({"deadline": 3.0}, "fair", "--link fair: a round of .* is not one exchange"),
        ({"flops": ""}, "fair", "the operations of b are not known; use --compute train_s"),
    ],
)
def test_runs_that_cannot_be_compared(tmp_path: Path, change: dict[str, Any], link: str, words: str) -> None:
    """One sentence that names the run."""
    a = make_run(tmp_path / "a", accuracy=(0.5,), up=1, down=1)
    b = make_run(tmp_path / "b", **{"accuracy": (0.5,), "up": 1, "down": 1, **change})
    with pytest.raises(DataError, match=words):
        compare([a, b], link, None, None)


def test_wrong_options(pair: list[Path], tmp_path: Path, capsys: Any) -> None:
    """Each is one line on stderr and exit status 2."""
    with pytest.raises(ConfigError, match="two run folders or more"):
        compare([pair[0], pair[0]], "4", None, None)
    for words, said in (
        ([*pair, "--link", "fast"], "--link fast must be own, none, one of lan"),
        ([*pair, "--link", "4", "--compute", "flops"], "--compute flops needs a device's speed"),
        ([*pair, "--target", "60"], "--target 60 must be at most 1"),
        ([pair[0], tmp_path], "is no run folder: it has no metrics.csv"),
        ([*pair, "--links", "4"], "unrecognized arguments"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
