"""`leanfed completion`. Oracles: bash itself, and the names by which the options' own parsers know their values."""

import shutil
import subprocess
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import shtab

from fl.__main__ import PROGRAMS
from fl.common.config import Config
from fl.common.mode import MODES
from fl.completion import all_commands, main
from fl.run.cli import make_parser
from fl.server.spec import server_optimizers
from tests.support import ROOT

# What readline does: it asks the function that the script has registered.
_ASK = """
source "$1"; shift
function=$(complete -p leanfed | sed 's/.* -F \\([^ ]*\\).*/\\1/')
COMP_WORDS=(leanfed "$@") COMP_CWORD=$#
$function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash, in a file."""
    path = tmp_path_factory.mktemp("completion") / "leanfed"
    path.write_text(shtab.complete(all_commands(), "bash"))
    return path


def _flags() -> set[str]:
    given = {flag for action in make_parser()._actions for flag in action.option_strings if flag.startswith("--")}
    return {flag for flag in given if "_" not in flag} - {"--local-rank", "--help"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], set(PROGRAMS)),
        (["ex"], {"experiment", "export"}),
        (["--"], {*_flags(), "--help"}),
        (["--lr", "0.1", "--server", ""], set(server_optimizers)),
        (["--quiet", "--mode", "b"], {"buffered"}),
        (["--mode", ""], set(MODES)),
        (["--precision", ""], set(get_args(get_type_hints(Config)["precision"]))),
        (["--rounds", ""], set()),
        (["--no-d"], {"--no-download"}),
        (["--config", "configs/quick"], {"configs/quickstart.yaml"}),
        (["--output-dir", "docu"], set()),
        (["--init", "READ"], {"README.md"}),
        (["experiment", "experiments/gpu_low"], {"experiments/gpu_lowcomm.yaml"}),
        (["experiment", "x.yaml", "--on"], {"--only"}),
        (["compare", "a", "b", "--compute", ""], {"flops", "train_s"}),
        (["export", "--bits", "4", "READ"], {"README.md"}),
        (["deploy", "--server", "fedy"], {"fedyogi"}),
        (["advise", "--link", "10", "--mod"], {"--mode", "--model"}),
        (["certificates", "keys", "--si"], {"--sites"}),
        (["describe", "int8", "--update", "READ"], {"README.md"}),
        (["completion", ""], {"bash", "zsh"}),
    ],
)
def test_bash(script: Path, words: list[str], offered: set[str]) -> None:
    """Programs, options, their values, and files where a value may be one."""
    asked = subprocess.run(
        ["bash", "--norc", "-c", _ASK, "bash", script, *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert asked.stderr == ""
    assert set(asked.stdout.split()) == offered


def test_the_script_is_printed(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For bash what is tested above; for zsh what zsh can read."""
    main(["bash"])
    assert capsys.readouterr().out == script.read_text()
    main(["zsh"])
    (tmp_path / "_leanfed").write_text(capsys.readouterr().out)
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    subprocess.run(["zsh", "-n", tmp_path / "_leanfed"], check=True)
