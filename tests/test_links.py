"""`Bandwidth Analysis/measure_links.py`. Oracles: arithmetic, a full sort, and the kernel's interface counters."""

import csv
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "Bandwidth Analysis"
MODULES = ("links_network", "links_update", "links_schemes", "links_report", "links_rank", "measure_links")
FLOATS = 62_006  # of lenet5 with three channels and ten classes


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The modules, imported as their neighbours import them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})


def make_row(links: Any, **given: Any) -> Any:
    common = {"scheme": "fp32, payload", "all_reduce": False, "mbit": 8.0, "clients": 1, "payload_bytes": 1_000_000}
    return links.links_report.Row(**{**common, "encode_s": 0.25, "decode_s": 0.5, "latency_s": 0.125, **given})


def test_prediction_by_hand(links: SimpleNamespace) -> None:
    """1 MB at 8 Mbit/s is 1 s. Three clients share the server's link: 3 s. An all-reduce of W ranks carries
    2 (W - 1) / W of its tensor over each link: with 2 as much as it holds, with 4 half as much again."""
    assert make_row(links).predicted_s == 0.25 + 1 + 0.125 + 0.5
    assert make_row(links, clients=3).link_bytes == 3_000_000
    assert make_row(links, all_reduce=True).link_bytes == 1_000_000
    assert make_row(links, all_reduce=True, clients=3).link_bytes == 1_500_000
    assert make_row(links).transfer_s is None
    assert make_row(links, seconds=2.0).transfer_s == 1.25


def test_ratios_are_against_dense_on_the_same_link(links: SimpleNamespace, tmp_path: Path) -> None:
    """A tenth of the bytes in a quarter of the time; predictions are marked where nothing was measured."""
    dense, small = (
        make_row(links, seconds=4.0, client_tx_bytes=1),
        make_row(links, scheme="x", payload_bytes=100_000, seconds=1.0, client_tx_bytes=1),
    )
    links.links_report.write_csv([dense, small], tmp_path / "links.csv")
    with open(tmp_path / "links.csv", newline="") as file:
        _, row = csv.DictReader(file)
    assert (float(row["bytes_ratio"]), float(row["seconds_ratio"])) == (10, 4)
    assert links.links_report.table([make_row(links)])[0][-1] == "8 Mbit/s: s, predicted only"
    assert links.links_report.table([dense, small])[2][-1] == "1 (0.975), 4x"


def test_the_usual_top_k(links: SimpleNamespace) -> None:
    """8 bytes for each of the largest 1 %; what comes back is what a full sort of the magnitudes keeps."""
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    scheme = links.links_schemes.UsualTopK(0.01)
    payload = scheme.encode(x)
    assert payload.numel() == 8 * 50
    out = torch.zeros_like(x)
    scheme.add(payload, out)
    kept = x.abs() >= x.abs().sort(descending=True).values[49]
    assert torch.equal(out, x * kept)


def test_repeats_fit_the_time(links: SimpleNamespace) -> None:
    """1.25 MB at 10 Mbit/s takes 1 s."""
    how_often = links.links_rank.how_often
    assert [how_often(1_250_000, 10, seconds) for seconds in (0.1, 2.5, 5, 100)] == [2, 2, 5, 9]


def test_without_root_it_says_so(links: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """One sentence, exit status 2, nothing begun."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as ended:
        links.measure_links.main([])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: real links need network namespaces, and this is not root; --predict-only does without"


def test_the_prediction_alone(links: SimpleNamespace, tmp_path: Path, capsys: Any) -> None:
    """Real payloads (dense: 4 bytes a float and a header of 24), no measured column, and no files."""
    out = tmp_path / "out"
    links.measure_links.main(["--model", "lenet5", "--predict-only", "--mbits", "1", "--output", str(out)])
    shown = capsys.readouterr().out
    assert "Predicted only, nothing was sent" in shown
    assert f"{4 * FLOATS + 24:,}" in shown
    assert not out.exists()


def test_updates_are_real(links: SimpleNamespace, real_data: Path, tmp_path: Path) -> None:
    """Two clients learn different things from the same first weights; no more than 8 steps of lr 0.02 can have moved
    them: what is read back is finite and not zero."""
    path = tmp_path / "updates.safetensors"
    words = links.links_update.write_updates("lenet5", str(real_data / "cifar10"), 2, path)
    assert "CIFAR-10" in words
    layout, (one, other) = links.links_update.read_updates(path)
    assert layout.total == FLOATS == one.numel()
    assert layout.names[0].endswith("weight")
    assert one.isfinite().all()
    assert one.count_nonzero() > FLOATS / 2
    assert not torch.equal(one, other)


def namespaces() -> list[str]:
    """Those of this process's network."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True, timeout=20).stdout
    return [line for line in listed.splitlines() if line.startswith(f"leanfed-links-{os.getpid()}-")]


@pytest.fixture
def rooted(links: SimpleNamespace) -> None:
    """Skipped where network namespaces cannot be made."""
    reason = links.links_network.why_not()
    if reason is not None:
        pytest.skip(f"real links need network namespaces, and {reason}")
    try:
        with links.links_network.network(1):
            pass
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("rooted")
def test_namespaces_are_removed_whatever_happens(links: SimpleNamespace) -> None:
    """Also on Ctrl-C."""
    found = []

    def interrupted() -> None:
        with links.links_network.network(2):
            found.extend(namespaces())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(found) == 3
    assert namespaces() == []


@pytest.mark.usefixtures("rooted")
def test_real_links(links: SimpleNamespace, tmp_path: Path) -> None:
    """Three machines at 20 Mbit/s. What a client's interface counted holds the payload, and beside it headers of at most
    8 % and a few messages; the server's holds both clients'. Nothing is faster than its bits allow, less the buckets."""
    options = ["--model", "lenet5", "--clients", "2", "--mbits", "20", "--seconds", "0.1", "--output", str(tmp_path)]
    links.measure_links.main(options)
    with open(tmp_path / "links.csv", newline="") as file:
        rows = {row["scheme"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(links.links_schemes.SCHEMES)
    assert int(rows["fp32, payload"]["payload_bytes"]) == 4 * FLOATS + 24
    assert int(rows["fp16, payload"]["payload_bytes"]) == 2 * FLOATS + 24
    assert int(rows["top-k 1 %, int32 + fp32"]["payload_bytes"]) == 8 * 620
    assert int(rows["fp32, all-reduce"]["payload_bytes"]) == 4 * FLOATS
    for name in ("fp32, payload", "fp16, payload"):
        size, sent = int(rows[name]["payload_bytes"]), int(rows[name]["client_tx_bytes"])
        assert size < sent < 1.08 * size + 6000
        assert 2 * size < int(rows[name]["server_rx_bytes"]) < 2.16 * size + 12000
        assert float(rows[name]["seconds"]) > 8 * 2 * size / 20e6 * 0.95
    assert {path.name for path in tmp_path.iterdir()} == {"links.csv", "links.md", "links.png"}
    assert "normal noise" in (tmp_path / "links.md").read_text()
    assert namespaces() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mbits", "10", "nan", "--predict-only"], "--mbits nan must be a number above 0"),
        (["--latency-ms", "-5", "--predict-only"], "--latency-ms -5 must be a number of 0 or more"),
        (["--seconds", "inf"], "--seconds inf must be a number of 0 or more"),
        (["--output", "FILE"], "must be a folder to write to"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_measured(
    links: SimpleNamespace, words: list[str], said: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit status 2 and a sentence; a measurement is not begun whose results could not be written."""
    monkeypatch.setattr(links.measure_links, "why_not", lambda: None)
    monkeypatch.setattr(links.measure_links, "write_updates", lambda *_: pytest.fail("it was begun"))
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        links.measure_links.main([str(tmp_path / "file") if word == "FILE" else word for word in words])
    assert said in capsys.readouterr().err
