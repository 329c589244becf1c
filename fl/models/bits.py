"""Bits of `--qat` and of integer weights."""

MIN_BITS, MAX_BITS = 4, 8
