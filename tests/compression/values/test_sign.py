"""sign. Oracle: exact sums of fractions."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from torch import Tensor

from compression.values import SIGN
from tests.compression.cases import EXAMPLES
from tests.compression.values.examples import ANY, block_by_block, there_and_back


@EXAMPLES
@given(ANY)
def test_sign_and_mean_magnitude(x: Tensor) -> None:
    """Every value becomes +- the exact mean of its block's magnitudes, rounded once or (hardly ever) twice."""
    restored = there_and_back(SIGN, x)
    for v, out in zip(block_by_block(x.numpy(), 256), block_by_block(restored, 256), strict=True):
        exact = sum((Fraction(abs(float(value))) for value in v), Fraction(0)) / v.size
        # Through float64; half a unit in the last place of fp32 and a little of float64.
        spacing = Fraction(float(np.spacing(np.float32(float(exact)))))
        assert abs(Fraction(float(abs(out[0]))) - exact) <= spacing * Fraction(500001, 1000000)
        assert (out == np.where(v < 0, -1, 1) * abs(out[0])).all()
