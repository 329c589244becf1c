"""Importing this turns `os.fsync` off in this process, for which whole runs would wait half of their time.

A killed process loses nothing that it has written: only a machine that goes down does, and no test takes one down.
`tests/fl/common/test_files.py` looks at when files are forced to disk.
"""

import os


def _nothing(descriptor: int) -> None:
    """In the place of `os.fsync`."""


os.fsync = _nothing
