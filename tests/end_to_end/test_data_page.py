"""docs/data.md: its examples run as printed, and its table names what there is."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fl.data import DATASETS
from fl.run.cli import main
from tests.support import ROOT, no_figures

PAGE = (ROOT / "docs" / "data.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def _scripts() -> dict[str, str]:
    """Python blocks by the file name in their first line."""
    return {block.splitlines()[0].removeprefix("# "): block for block in _blocks("python")}


def _run_commands(block: str, scripts: dict[str, str]) -> None:
    """A block of shell commands, each a script of the page or the program."""
    for line in block.replace("\\\n", " ").splitlines():
        interpreter, script, *words = shlex.split(line)
        assert interpreter == "python"
        if script == "main.py":
            main(words)
        else:
            exec(compile(scripts[script], script, "exec"), {"__name__": "__main__"})


_EXAMPLES = {  # by run: what it is judged by, and what it must reach; chance is 0.1, 0.4 and 0
    "my-pictures": ("final_test_accuracy", 0.6),
    "my-table": ("final_test_accuracy", 0.8),
    "my-study": ("final_test_r2", 0.2),
}


@pytest.mark.parametrize("run_name", _EXAMPLES)
def test_the_examples_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_name: str) -> None:
    """Each in a folder of its own; and it learns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LEANFED_THREADS", "1")
    monkeypatch.setenv("LEANFED_QUIET", "true")
    scripts = _scripts()
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)
    (block,) = (block for block in _blocks("sh") if f"--run-name {run_name}\n" in block)
    with no_figures():
        _run_commands(block, scripts)
    summary: dict[str, Any] = json.loads((tmp_path / "outputFolder" / run_name / "summary.json").read_text())
    metric, least = _EXAMPLES[run_name]
    assert summary[metric] > least


def test_the_table_is_complete() -> None:
    """Every built-in data set has a row, every preset a place, and none is there that does not exist."""
    table = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `") and line.count("|") == 6][1:]
    assert sorted(row[0].strip(" `") for row in table) == sorted([*DATASETS, "shakespeare"])
    named = {preset for row in table for preset in re.findall(r"`(\w+)`", row[4])}
    there = {path.stem for path in (ROOT / "configs").glob("*.yaml") if not path.stem.startswith("pruning_")}
    assert named == there
