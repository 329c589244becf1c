"""What holds for the whole process. Oracle: what it was before."""

import os
from pathlib import Path

import torch

from fl.common.surroundings import kept_surroundings, usual_surroundings


def settings() -> tuple[object, ...]:
    """All of them."""
    grad = torch.is_grad_enabled()
    return torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(), grad, os.getcwd()


def change(folder: Path) -> None:
    """All of them."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    os.chdir(folder)


def test_changes_are_taken_back(tmp_path: Path) -> None:
    """Inside, torch may be as it is when a process begins, whatever was set outside."""
    before = settings()
    with kept_surroundings():
        change(tmp_path)
        outside = settings()
        with usual_surroundings():
            dtype, device, *_, grad, _ = settings()
            assert (dtype, device, grad) == (torch.float32, torch.device("cpu"), True)
            change(tmp_path.parent)
        assert settings() == outside
    assert settings() == before
    assert torch.ones(1).device.type == "cpu"
