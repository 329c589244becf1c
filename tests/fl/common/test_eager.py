"""What leaves torch's compiler out. That runs do is tests/end_to_end/test_launchers.py, that no bit changes
tests/fl/training/engine/test_optimizer.py."""

import sys

import pytest
import torch
import torch._refs

from fl.common.eager import _MARK, _decorated, eager_shapes


def test_marks_are_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the block torch's functions are as before: a compiler that is imported later finds those that it must skip."""
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    functions = list(_decorated(torch._refs))
    before = [hasattr(function, _MARK) for function in functions]
    with eager_shapes():
        assert all(hasattr(function, _MARK) for function in functions)
    assert [hasattr(function, _MARK) for function in functions] == before
    assert len(functions) > 100
