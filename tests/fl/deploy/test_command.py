"""`leanfed deploy`: the folder of an app. Oracle: the options that were given."""

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fl.deploy.__main__ import main
from fl.deploy.options import read_table
from fl.run.cli import parse
from tests.support import ROOT

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings it")


def _app(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "configs").glob("*.yaml"))])
def test_presets(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every preset is an app with the same options, or is refused in one sentence that names one of them."""
    words = ["--config", str(ROOT / "configs" / f"{name}.yaml"), "--lr", "1e-05", "--no-figures"]
    with contextlib.suppress(SystemExit):
        main([*words, str(tmp_path / "app")])
    told = capsys.readouterr().err
    if told.startswith("error: "):
        assert "across sites" in told
        assert not (tmp_path / "app").exists()
        return
    assert read_table(_app(tmp_path / "app")["config"])[0] == parse(words)[0]


def test_texts_are_escaped(tmp_path: Path) -> None:
    name = 'a "b" \\ \x7f ü 😀'
    main(["--run-name", "x", "--output-dir", name, str(tmp_path / "app")])
    assert _app(tmp_path / "app")["config"]["output-dir"] == name


def test_the_components_are_there(tmp_path: Path) -> None:
    main([str(tmp_path / "app"), "--dataset", "digits"])
    for component in _app(tmp_path / "app")["components"].values():
        module, _, name = component.partition(":")
        assert f"\n{name} = " in (ROOT / f"{module.replace('.', '/')}.py").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--mode", "step", "--downlink", "none"], "--mode step does not work across sites: there are no rounds in it"),
        (
            ["--mode", "buffered:2", "--profiles", "good", "--timeout", "9"],
            "--lost 0 and --timeout 9 do not work across sites: they are about simulated clients; use 0",
        ),
        (["--deadline", "3"], "--deadline 3 needs --min-clients across sites: say how many updates a round must have"),
        (["--over-select", "2", "--min-clients", "1", "--late", "carry"], "--late carry does not work across sites"),
        (["--exchange", "hook"], "--exchange hook does not work across sites"),
        (["--ranks-per-client", "2"], "--ranks-per-client 2 does not work across sites"),
        (["--server-shards", "2"], "--server-shards 2 does not work across sites"),
        (["--prune", "magnitude:0.5"], "--prune magnitude:0.5 does not work across sites"),
        (
            ["--profiles", "good", "--uplink-shares", "online:0.1", "--mode", "buffered:2"],
            "--uplink-shares online:0.1 does not go with --mode buffered:2 across sites",
        ),
        (
            ["--client-eval", "0.2", "--partition", "sites", "--dataset", "csv:x.csv,target=y"],
            "--client-eval 0.2 does not go with --partition sites",
        ),
        (["--dataset", "mnist", "--partition", "sites"], "--dataset mnist does not go with --partition sites"),
        (["--lr", "-1"], "--lr -1.0 must be at least 0"),
    ],
)
def test_what_cannot_work(tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, str(tmp_path / "app")])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {sentence}")
    assert told.count("\n") == 1
    assert not (tmp_path / "app").exists()


def test_a_folder_that_holds_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("mine")
    for words, sentence in (
        ([str(tmp_path)], "holds a pyproject.toml already"),
        (["--quiet"], "must come first or last"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert sentence in capsys.readouterr().err
    assert (tmp_path / "pyproject.toml").read_text() == "mine"


def test_before_torch_and_flower(tmp_path: Path) -> None:
    """Writing an app needs neither: a laptop may do it."""
    code = (
        f"import sys; from fl.deploy.__main__ import main; main(['--dataset', 'digits', {str(tmp_path / 'app')!r}]); "
        "assert not {'torch', 'flwr'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
