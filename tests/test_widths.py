"""`Bandwidth Analysis/widths.py`. Oracle: a user's mistake is one line on stderr and exit status 2."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support import ROOT, no_figures, rows, run_here


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module; it puts the repository on the path, which is undone."""
    monkeypatch.syspath_prepend(str(ROOT / "Bandwidth Analysis"))
    monkeypatch.delitem(sys.modules, "widths", raising=False)
    return importlib.import_module("widths")


def _run(folder: Path, **options: Any) -> Path:
    with no_figures():
        chosen = {"rounds": 1, "local_steps": 1, "clients": 2, "limit_train": 80, "limit_test": 8, **options}
        run_here(folder, "run", **{"capabilities": "groups:1.0x1+0.5x1", **chosen})
    return folder / "run"


def _refused(tool: ModuleType, folder: Path, capsys: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        tool.main([str(folder)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return str(line)


def test_what_is_no_such_run(tool: ModuleType, tmp_path: Path, capsys: Any) -> None:
    """No run folder, no options in it, no capabilities; and no folder named."""
    assert "is no run folder: it has no config.json" in _refused(tool, tmp_path, capsys)
    for options, said in (({"rounds": 1}, "is a run without --capabilities"), ({"x": 1}, "does not hold the options")):
        (tmp_path / "config.json").write_text(json.dumps(options))
        assert said in _refused(tool, tmp_path, capsys)
    with pytest.raises(SystemExit, match="2"):
        tool.main([])
    assert "name one run folder or more" in capsys.readouterr().err


def test_masks(tool: ModuleType, tmp_path: Path, capsys: Any) -> None:
    """Clients with masks all hold a model of full width."""
    folder = _run(tmp_path, prune="magnitude:0.5")
    assert "its clients trained masks, not smaller models" in _refused(tool, folder, capsys)


def test_smaller_models(tool: ModuleType, tmp_path: Path, capsys: Any) -> None:
    """A row for each size, the smaller one first; without the model, or without validation data, it is refused."""
    folder = _run(tmp_path, prune="width:0.2")
    table = tool.widths(folder)
    assert list(table.columns[0].cells) == ["1", "0"]
    assert list(table.columns[1].cells) == ["0.5", "1"]
    assert [cell[-1] for cell in table.columns[4].cells] == ["%", "%"]
    (folder / "final_model.safetensors").write_bytes(b"nothing")
    assert "final_model.safetensors does not hold the model" in _refused(tool, folder, capsys)
    (folder / "final_model.safetensors").unlink()
    assert "final_model.safetensors does not hold the model" in _refused(tool, folder, capsys)
    options = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(options | {"val_fraction": 0.0}))
    assert "is a run without validation data (--val-fraction)" in _refused(tool, folder, capsys)


def test_learnt_sizes(tool: ModuleType, tmp_path: Path) -> None:
    """With `online` a client's size is the one in its last row of clients.csv, not what it began with."""
    learnt = {"capabilities": "online:0.1", "prune": "structured:0", "profiles": "pr-fl", "clients": 4, "rounds": 3}
    folder = _run(tmp_path, **learnt)
    sizes = {row["client"]: float(row["capability"]) for row in rows(folder, "clients")}
    assert min(sizes.values()) < 1
    table = tool.widths(folder)
    shown = dict(zip(table.columns[0].cells, map(float, table.columns[1].cells), strict=True))
    assert shown == sizes
