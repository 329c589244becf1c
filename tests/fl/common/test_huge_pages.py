"""Huge pages. Oracle: what the kernel says of the memory that holds a tensor (/proc/self/smaps), or the variable itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ADVISED = """
import re
from fl.common.huge_pages import use_huge_pages
use_huge_pages()
import torch
numbers = torch.ones(2**24)
at = numbers.data_ptr()
areas = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read(), flags=re.M)
for area in filter(None, areas):
    low, high = (int(each, 16) for each in area.split()[0].split("-"))
    if low <= at < high:
        print("hg" in re.search(r"^VmFlags:(.*)$", area, re.M)[1].split())
"""


def advised(**variables: str) -> bool:
    """Whether a large tensor of another process lies in memory that is to have huge pages."""
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    found = subprocess.run(
        [sys.executable, "-c", _ADVISED], env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    return found.stdout.strip() == "True"


@pytest.mark.skipif(not _PAGES.exists(), reason="this system has no huge pages")
def test_large_tensors_are_to_have_huge_pages_unless_the_user_says_otherwise() -> None:
    assert advised()
    assert not advised(THP_MEM_ALLOC_ENABLE="0")
