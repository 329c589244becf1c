"""A user's own module. Oracle: the words of the messages, each one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fl.common.errors import ConfigError
from fl.common.plugin import load_function
from tests.support import ROOT, environment


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    """The name of a new module with this text."""
    name = f"module_{abs(hash((str(folder), text)))}"
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    return name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def net(:", "SyntaxError"),
        ("import no_such_package", r"ModuleNotFoundError: No module named 'no_such_package'; module_\d+.py, line 1"),
        ("from os import no_such_name", "ImportError: cannot import name 'no_such_name'"),
        ("\n1 / 0", r"ZeroDivisionError: division by zero; module_\d+.py, line 2"),
        ("assert False, 'two\\nlines'", "AssertionError: two lines"),
        ("raise SystemExit(2)", "SystemExit: 2"),
    ],
)
def test_modules_that_cannot_be_imported(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own words, and the line."""
    name = module(tmp_path, monkeypatch, text)
    with pytest.raises(
        ConfigError, match=rf"--model '{name}:net': module '{name}' cannot be imported \({says}"
    ) as caught:
        load_function("--model", f"{name}:net", "classes", "in_channels")
    assert "\n" not in str(caught.value)


def test_what_an_import_sets_and_draws_holds_there_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: torch's settings, its generator and the working directory before; what is drawn is the same every time."""
    text = "import os, torch\nW = torch.rand(3)\ntorch.manual_seed(0)\ntorch.set_default_dtype(torch.float64)\nos.chdir('/')"
    before = torch.get_rng_state(), torch.get_default_dtype(), Path.cwd()
    drawn = []
    for end in ("", "\n"):
        name = module(tmp_path, monkeypatch, f"{text}\ndef net(classes, in_channels): return W{end}")
        drawn.append(load_function("--model", f"{name}:net", "classes", "in_channels")(1, 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_default_dtype(), Path.cwd()) == before[1:]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("text", ["net = lambda c, i: None", "class net:\n    def __init__(self, a, b): pass"])
def test_whatever_can_be_called(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lambda, a class, and arguments of other names."""
    load_function("--model", f"{module(tmp_path, monkeypatch, text)}:net", "classes", "in_channels")


@pytest.mark.slow
def test_a_module_may_import_torchvision(tmp_path: Path) -> None:
    """Beside a torch for which it was not compiled, in a process that has not imported it. Oracle: it works; and without it
    nothing else imports it."""
    (tmp_path / "own.py").write_text("import torchvision\ndef net(c, i): return torchvision.models.resnet18")
    (tmp_path / "plain.py").write_text("def net(c, i): return None")
    load = "from fl.common.plugin import load_function; import sys; "
    for name, wanted in (("plain", "False"), ("own", "True")):
        code = f"{load}load_function('--model', '{name}:net'); print('torchvision' in sys.modules)"
        env = {**environment(), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == wanted, done.stderr
