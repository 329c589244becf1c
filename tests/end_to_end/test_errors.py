"""A user's mistake ends in one sentence on stderr, exit status 2, and nothing written."""

from pathlib import Path
from typing import Any

import pytest

import fl.run.loop
from compression import NonFiniteError
from fl.run.cli import main
from tests.support import PYTHON, flags, program


def _refused(argv: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which the program refuses these options."""
    with pytest.raises(SystemExit) as caught:
        main([*flags(), "--output-dir", str(folder / "out"), "--run-name", "run", *argv])
    assert caught.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert not (folder / "out").exists(), "nothing may be made"
    lines = told.err.strip().splitlines()
    assert len(lines) == 1, told.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in told.err
    assert "Parser key" not in told.err
    assert "Namespace" not in told.err
    return lines[0]


_NORM = "tests.user_code:flat_norm_model"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--upliink", "none"], ["--upliink", "--uplink"]),
        (["--clint=4"], ["--clint", "--clients"]),
        (["stray"], ["stray"]),
        (["--rounds", "0"], ["--rounds 0", "at least 1"]),
        (["--rounds", "-3"], ["--rounds -3", "at least 1"]),
        (["--rounds", "many"], ["--rounds", "many", "whole number"]),
        (["--rounds", "1.5"], ["--rounds", "1.5"]),
        (["--rounds"], ["--rounds"]),
        (["--lr", "nan"], ["--lr nan"]),
        (["--lr", "inf"], ["--lr inf"]),
        (["--lr", "1e400"], ["--lr inf", "finite"]),
        (["--lr", "-1"], ["--lr -1", "at least 0"]),
        (["--momentum", "1"], ["--momentum 1"]),
        (["--val-fraction", "0.9"], ["--val-fraction 0.9", "0.5"]),
        (["--tau", "0"], ["--tau 0"]),
        (["--threads", "0"], ["--threads 0"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--server", "fedadams"], ["--server", "fedadams", "fedadam"]),
        (["--precision", "fp8"], ["--precision", "fp8", "bf16"]),
        (["--quiet=perhaps"], ["--quiet", "perhaps"]),
    ],
)
def test_options_that_do_not_exist_or_have_no_such_value(
    argv: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option, the value, and what would be right are named."""
    message = _refused(argv, tmp_path, capsys)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--uplink", "topkk:0.1"], ["--uplink", "topkk", "topk"]),
        (["--uplink", "topk"], ["--uplink", "topk"]),
        (["--uplink", "topk:0"], ["--uplink", "topk:0"]),
        (["--uplink", "topk:2"], ["--uplink", "topk:2"]),
        (["--uplink", "topk:nan"], ["--uplink", "nan"]),
        (["--uplink", "topk:0.1,scope=world"], ["--uplink", "scope", "layer"]),
        (["--uplink", "topk:0.1,scpoe=layer"], ["--uplink", "scpoe"]),
        (["--uplink", "topk:0.1+"], ["--uplink"]),
        (["--uplink", ""], ["--uplink"]),
        (["--uplink", "none+topk:0.1"], ["--uplink", "none"]),
        (["--uplink", "bf16+topk:0.1"], ["--uplink", "topk:0.1"]),
        (["--downlink", "fp61"], ["--downlink", "fp61", "fp16"]),
        (["--partition", "dirichlet"], ["--partition", "dirichlet"]),
        (["--partition", "dirichlet:0"], ["--partition", "dirichlet:0"]),
        (["--partition", "diriclet:1"], ["--partition", "dirichlet"]),
        (["--partition", "iid,min=0"], ["--partition", "min"]),
        (["--lr-schedule", "step:0,0.1"], ["--lr-schedule", "step:0,0.1"]),
        (["--lr-schedule", "cosin"], ["--lr-schedule", "cosine"]),
        (["--augment", "crop:x"], ["--augment", "crop:x"]),
        (["--augment", "crop:40"], ["--augment", "crop:40", "32x32"]),
        (["--mode", "async"], ["--mode", "async"]),
    ],
)
def test_malformed_specifications(
    argv: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The option and the part that is wrong are named."""
    message = _refused(argv, tmp_path, capsys)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--dataset", "digit"], ["--dataset", "digits"]),
        (["--dataset", "nowhere:load"], ["--dataset", "nowhere"]),
        (["--dataset", "tests.user_code:absent"], ["--dataset", "absent"]),
        (["--dataset", "pathlib:Path"], ["--dataset pathlib:Path", "fl.data.Dataset"]),
        (["--model", "resnet19"], ["--model", "resnet18"]),
        (["--model", "tests.user_code:absent"], ["--model", "absent"]),
        (["--model", "lenet5", "--norm", "group"], ["--norm group", "lenet5"]),
        (["--init", "nowhere.safetensors"], ["--init", "nowhere.safetensors"]),
        (["--clients", "2", "--clients-per-round", "3"], ["--clients-per-round 3", "--clients 2"]),
        (["--clients", "5000"], ["--clients 5000"]),
        (["--partition", "labels:11"], ["labels:11", "10"]),
        (
            ["--model", _NORM, "--limit-train", "40", "--clients", "30"],
            ["--partition iid: client", "one sample at a time"],
        ),
        (["--model", _NORM, "--batch-size", "1"], ["--batch-size 1 trains on one sample", _NORM]),
        (["--local-epochs", "1", "--local-steps", "2"], ["--local-epochs", "--local-steps"]),
        (["--hook", "tests.user_code:make_hook"], ["--hook", "--exchange hook"]),
        (["--exchange", "hook", "--hook", "a"], ["--hook", "package.module:function"]),
        (["--exchange", "hook", "--clients", "4"], ["--exchange hook", "--clients 4"]),
        (["--mode", "step", "--clients", "2"], ["--mode step", "--clients 2"]),
        (["--mode", "step", "--server", "fedyogi"], ["--mode step", "--server fedyogi"]),
        (["--mode", "step", "--downlink", "fp16"], ["--mode step", "--downlink fp16"]),
        (["--resume", "nowhere"], ["--resume nowhere"]),
        (["--run-name", "../other"], ["--run-name"]),
        (["--engine", "ddp", "--deepspeed_config", "deepspeed_config.json"], ["--engine ddp", "--deepspeed-config"]),
        (["--deepspeed_config", "nowhere.json"], ["nowhere.json"]),
    ],
)
def test_what_does_not_fit_together(
    argv: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown names, and options that contradict each other, the data or the ranks."""
    message = _refused(argv, tmp_path, capsys)
    for word in words:
        assert word in message


def test_missing_data_without_download(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which files, with their sums, and where they were looked for."""
    message = _refused(["--dataset", "cifar10", "--data-dir", str(tmp_path), "--no-download"], tmp_path, capsys)
    for word in (str(tmp_path), "data_batch_1", "c99cafc152244af753f735de768cd75f", "--download"):
        assert word in message


def test_configuration_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown key, a wrong value, text that is no YAML, and no file at all."""
    path = tmp_path / "run.yaml"
    for text, words in (
        ("uplnk: none\n", ["uplnk", "uplink"]),
        ("rounds: many\n", ["rounds", "many"]),
        ("rounds: [1\n", ["--config", "YAML", "line 1"]),
        ("clients: 0\n", ["--clients 0"]),
    ):
        path.write_text(text)
        message = _refused(["--config", str(path)], tmp_path, capsys)
        for word in words:
            assert word in message
    assert "nowhere.yaml" in _refused(["--config", "nowhere.yaml"], tmp_path, capsys)


def test_environment(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that names no option, and one with a value that is none."""
    monkeypatch.setenv("LEANFED_UPLNK", "none")
    message = _refused([], tmp_path, capsys)
    assert "LEANFED_UPLNK" in message
    assert "LEANFED_UPLINK" in message
    monkeypatch.delenv("LEANFED_UPLNK")
    monkeypatch.setenv("LEANFED_CLIENTS", "none at all")
    assert "none at all" in _refused([], tmp_path, capsys)


def test_an_output_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--output-dir names a file."""
    (tmp_path / "file").write_text("")
    assert "--output-dir" in _refused(["--output-dir", str(tmp_path / "file")], tmp_path, capsys)


def test_training_that_diverges_is_told_in_one_sentence(tmp_path: Path) -> None:
    """The learning rate is the user's: no traceback, and the advice reaches stderr, through the real program."""
    options = flags(lr=1e20, rounds=3, limit_train=100, output_dir=tmp_path, run_name="run")
    result = program(PYTHON, *options, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "lower the learning rate" in result.stderr
    assert "lower the learning rate" in (tmp_path / "run" / "run.log").read_text()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_divergence_is_told_by_the_rank_that_sees_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 says only that a client failed; the client's own rank says why, whichever it is."""

    def diverging(config: Any, explicit: Any) -> None:
        raise NonFiniteError("the update holds NaN")

    monkeypatch.setattr(fl.run.loop, "run", diverging)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit) as caught:
        main(flags())
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: the update holds NaN\n"
