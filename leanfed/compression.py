"""The names of our package `compression`, whichever package of that name Python finds first.

From 3.14 on the standard library has one too, which comes first wherever ours is installed.
"""

from typing import TYPE_CHECKING

import fl  # noqa: F401 - makes our modules importable beside the standard library's

if TYPE_CHECKING:
    from compression import *  # noqa: F403

from compression.names import find as __getattr__  # noqa: F401
