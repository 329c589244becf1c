"""How precisely kept values are written down: fp32, fp16, bf16, int8, int4, log4, log3, log2, sign, qsgd:LEVELS.

Each format gives the same side information and codes, bit for bit, on CPU and CUDA and for any number of threads: it
uses correctly rounded operations only (no exp, log or pow), and sums in a fixed order.
"""

from ..errors import PayloadError
from ..grammar import MAX_LEVELS, VALUE_NAMES, read_value
from ..spec import Stage
from .base import ValueFormat
from .floats import BF16, FP16, FP32
from .logarithmic import LOG2, LOG3, LOG4
from .sign import SIGN
from .uniform import INT4, INT8, QSGD_CODE, Qsgd

_PLAIN: tuple[ValueFormat, ...] = (FP32, FP16, BF16, INT8, INT4, LOG4, LOG3, LOG2, SIGN)
_BY_NAME = {form.name: form for form in _PLAIN}
_BY_CODE = {form.code: form for form in _PLAIN}

__all__ = ["BF16", "FP16", "FP32", "INT4", "INT8", "LOG2", "LOG3", "LOG4", "SIGN", "VALUE_NAMES", "Qsgd", "ValueFormat"]
__all__ += ["make_value", "value_of"]


def make_value(stage: Stage) -> ValueFormat:
    """The value format that a stage of a specification names; SpecError if there is none such."""
    parameter = read_value(stage)
    return Qsgd.of(parameter) if stage.name == "qsgd" else _BY_NAME[stage.name]


def value_of(code: int, parameter: int) -> ValueFormat:
    """The value format of a payload header; PayloadError if there is none such."""
    if code == QSGD_CODE and 1 <= parameter <= MAX_LEVELS:
        return Qsgd.of(parameter)
    if code not in _BY_CODE or parameter:
        raise PayloadError(f"unknown value format {code} with parameter {parameter}")
    return _BY_CODE[code]
