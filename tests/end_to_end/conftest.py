"""Fixtures of several end-to-end tests."""

import pytest

from tests.end_to_end.experiments import replace_run


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that are started, as they are."""
    started: list[str] = []
    replace_run(monkeypatch, lambda config: started.append(config.run_name))
    return started
