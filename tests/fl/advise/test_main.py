"""`leanfed advise` as a whole, on digits and a tiny model. Oracle: the library's own codecs, and formulas by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from compression import Sender, make_codec
from fl.advise.__main__ import main
from fl.advise.measure import measure_downlink, measure_uplink
from fl.advise.updates import ROUNDS, recorded
from fl.common.config import Config

pytestmark = pytest.mark.slow

DIGITS = ["--dataset", "digits", "--model", "tests.user_models:Head", "--threads", "1", "--precision", "fp32"]
CONFIG = Config(
    dataset="digits",
    model="tests.user_models:Head",
    threads=1,
    precision="fp32",
    device="cpu",
    rounds=30,
    local_steps=5,
)
EXPLICIT = frozenset({"dataset", "model", "threads", "precision", "device", "rounds", "local_steps"})


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """What --json prints, and nothing else."""
    main([*DIGITS, *words, "--json"])
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr."""
    with pytest.raises(SystemExit) as stopped:
        main([*DIGITS, *words])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_bytes_and_errors_are_those_of_the_codec() -> None:
    """Written out again: `Sender` on the recorded updates, one after another; and 1 / (1 - behind^2)."""
    with recorded(CONFIG, EXPLICIT) as recording:
        assert len(recording.uplink) == len(recording.downlink) == ROUNDS
        specs = ["none", "topk:0.1+log3+zstd", "sign"]
        ups, downs = measure_uplink(recording, specs, "residual"), measure_downlink(recording, specs, "residual")
        for found, updates in (
            (ups, [sent.update.values for sent in recording.uplink]),
            (downs, [published.change for published in recording.downlink]),
        ):
            for one in found:
                sender, sizes = Sender(make_codec(one.cost.spec)), []
                owed, total = torch.zeros(recording.layout.total), sum(updates)
                for at, update in enumerate(updates):
                    payload, decoded = sender.encode(update.clone(), recording.layout)
                    sender.keep()
                    sizes.append(payload.numel())
                    owed += update - decoded.dense()
                    if at == 0:
                        assert one.error == pytest.approx(float(owed.norm() / update.norm()), abs=1e-6)
                assert one.cost.payload_bytes == sorted(sizes)[3] or min(sizes) < one.cost.payload_bytes < max(sizes)
                assert one.behind == pytest.approx(float(owed.norm() / torch.as_tensor(total).norm()), abs=1e-5)
                assert one.rounds == pytest.approx(1 / (1 - one.behind**2))
                assert one.cost.dense_bytes == 24 + 4 * recording.layout.total


def test_the_recording_is_the_run_that_any_run_would_be() -> None:
    """The same options give the same updates; and the changes are, with FedAvg, minus the mean of updates of both clients:
    of one alone, where one client takes part."""
    one = Config(**{**vars(CONFIG), "clients": 3, "clients_per_round": 1})
    with recorded(one, EXPLICIT) as first, recorded(one, EXPLICIT) as again:
        for sent, published, other in zip(first.uplink, first.downlink, again.uplink, strict=True):
            assert torch.equal(sent.update.values, other.update.values)
            torch.testing.assert_close(published.change, -sent.update.values, atol=1e-6, rtol=1e-4)
        assert first.uplink_rounds == min(ROUNDS, 10)
        assert first.downlink_rounds == ROUNDS


def test_the_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The last line is options that a run takes; all pairs' figures are in the file; a slow link wants fewer bytes than a
    fast one, where dense is best."""
    main(
        [
            *DIGITS,
            "--link",
            "0.001",
            "--json",
            str(tmp_path / "advice.json"),
            "--codec",
            "threshold:0.01",
            "--codec",
            "csr_codec:csr",
        ]
    )
    printed = capsys.readouterr().out
    slow = json.loads((tmp_path / "advice.json").read_text())
    assert printed.splitlines()[-1] == slow["advised"]["options"]
    assert "threshold:0.01" in printed
    assert "csr_codec:csr" in printed
    assert re.fullmatch(r"--uplink \S+ --downlink \S+ --error-feedback residual", slow["advised"]["options"])
    assert slow["uplink"][0]["spec"] == "none"
    fast = told(capsys, "--link", "100000", "--local-epochs", "20")
    assert (fast["advised"]["uplink"], fast["advised"]["downlink"]) == ("none", "none")

    def size(found: dict[str, Any]) -> int:
        return sum(
            next(one["payload_bytes"] for one in found[way] if one["spec"] == found["advised"][way])
            for way in ("uplink", "downlink")
        )

    assert size(slow) < size(fast) / 4


@pytest.mark.slow
def test_confirmed_by_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Dense and others, each with its score; the answer is one of them, and `seconds` is round_s times what was measured."""
    found = told(capsys, "--link", "0.01", "--confirm", "2", "--clients", "2")
    assert [found["confirmed"][0][way] for way in ("uplink", "downlink")] == ["none", "none"]
    assert len(found["confirmed"]) == 4
    for one in found["confirmed"]:
        assert 0 < one["validation"] <= 1
        if one["rounds"] is not None:  # None: below what the dense run had after its first round
            assert one["rounds"] >= 1
            assert one["seconds"] == pytest.approx(one["rounds"] * one["round_s"])
    answers = [(one["uplink"], one["downlink"]) for one in found["confirmed"]]
    assert (found["advised"]["uplink"], found["advised"]["downlink"]) in answers


def test_masks_and_algorithms(capsys: pytest.CaptureFixture[str]) -> None:
    """What the options of a run refuse is not advised: low rank inside a mask, feedback of selectors with SCAFFOLD."""
    pruned = told(capsys, "--link", "1", "--prune", "magnitude:0.5,protect=none")
    specs = {one["spec"]: one for one in pruned["uplink"]}
    assert not any("powersgd" in spec for spec in specs)
    assert specs["none"]["payload_bytes"] < 0.6 * 4 * pruned["coordinates"]
    scaffold = told(capsys, "--link", "1", "--algorithm", "scaffold", "--momentum", "0")
    assert not any("topk" in one["spec"] for one in scaffold["uplink"])
    assert any("topk" in one["spec"] for one in scaffold["downlink"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "--link is missing"),
        (["--link", "poor"], "--link 'poor'"),
        (["--link", "0"], "--link 0 must have Mbit/s above 0"),
        (["--link", "none"], "'none' is no link"),
        (["--link", "1", "--codec", "topk:2"], "--codec 'topk:2'"),
        (["--link", "1", "--confirm", "0"], "--confirm 0 must be at least 1"),
        (["--link", "1", "--mode", "step"], "--mode must not be step"),
        (["--link", "1", "--mode", "stepp"], "--mode stepp: there is no such mode"),
        (["--link", "1", "--json", "/tmp"], "--json /tmp must be a file"),
        (["--link", "1", "--resume", "run"], "--resume run: advise"),
        (["--link", "1", "--uplnk", "none"], "there is no option '--uplnk'"),
        (["--link", "1", "--uplink", "topk:2"], "--uplink 'topk:2'"),
        (["--link", "1", "--json", "/no/such/folder/file"], "--json /no/such/folder/file must be a file in a folder"),
        (["--link", "1", "--confirm", "2", "--val-fraction", "0"], "--confirm compares validation scores"),
        (["--link", "1", "--prune", "magnitude:0.5", "--codec", "powersgd:2"], "powersgd:2"),
    ],
)
def test_mistakes(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence each."""
    assert sentence in refused(capsys, *words)


def test_under_a_launcher(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchrun sets on one of two ranks."""
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert "advise measures in one process: start it without torchrun" in refused(capsys, "--link", "1")
