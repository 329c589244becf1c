"""What the fork server imports and makes once for all ranks that it starts: the program's own modules, what torch imports
when an optimizer is first made, and the digits. No thread may start here, so nothing trains.
"""

import gc

import pytest  # noqa: F401
import torch._dynamo  # noqa: F401

import fl.output.report
import fl.run.loop
import fl.training.engine.plain  # noqa: F401
import tests.no_fsync  # noqa: F401
from fl.data import digits

digits.decoded()

# Nothing of this ever goes: a rank that collects garbage need not look through it, for a quarter of a second each time.
gc.freeze()
