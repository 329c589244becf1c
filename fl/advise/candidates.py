"""The codecs that are compared: a list for each direction, and what the options of the run allow of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.run.checks import check_options

WAYS = ("uplink", "downlink")

_DENSITIES = ("0.2", "0.1", "0.05", "0.02", "0.01", "0.005", "0.002", "0.001")
CANDIDATES = (
    *("none", "bf16", "bf16+zstd", "int8+zstd", "int4+zstd", "log3+zstd", "log2+zstd", "sign+zstd", "qsgd:31+zstd"),
    *(f"topk:{density}+log3+zstd" for density in _DENSITIES),
    *("topk:0.1+bf16+zstd", "topk:0.01+bf16+zstd", "topk:0.05+sign+zstd", "topk:0.01+sign+zstd"),
    *("topk:0.05,chunk=4096+log2+zstd", "dct:64+topk:0.05+log3+zstd", "dct:64+topk:0.01+log3+zstd"),
    *("cost:0.05+log3+zstd", "randk:0.25+bf16", "powersgd:1", "powersgd:4", "powersgd:4+bf16+zstd"),
)
"""One of each kind, with the value formats and densities that docs/compression.md recommends."""


def with_codecs(config: Config, up: str, down: str) -> dict[str, Any]:
    """What the options about the exchange come to with these codecs; without one, what is about the uplink falls away."""
    changes: dict[str, Any] = {"uplink": up, "downlink": down}
    if up != "none":
        return {**changes, "error_feedback": config.error_feedback}
    feedback = "none" if config.error_feedback == "none" else "residual"
    return {**changes, "error_feedback": feedback, "uplink_warmup": 0, "uplink_shares": "none"}


def chosen(config: Config, explicit: frozenset[str]) -> dict[str, Any]:
    """`with_codecs` of those that the user gave."""
    return with_codecs(config, *(getattr(config, way) if way in explicit else "none" for way in WAYS))


def candidates(config: Config, explicit: frozenset[str], own: Sequence[str]) -> tuple[list[str], list[str]]:
    """Specifications for the uplink and for the downlink, those that the options of the run allow. `none` comes first.

    `own`: others, which the options must allow in one direction at least, or ConfigError says why not. The run's own codecs
    are there, where the user gave them.
    """
    named = [getattr(config, way) for way in WAYS if way in explicit]
    found = tuple(_allowed(config, explicit, way, [*CANDIDATES, *own, *named]) for way in WAYS)
    for spec in own:
        if spec not in found[0] and spec not in found[1]:
            check_options(dataclasses.replace(config, **with_codecs(config, spec, "none")), explicit)
    return found[0], found[1]


def _allowed(config: Config, explicit: frozenset[str], way: str, specs: Sequence[str]) -> list[str]:
    found = ["none"]
    for spec in dict.fromkeys(specs):
        pair = (spec, "none") if way == "uplink" else ("none", spec)
        try:
            check_options(dataclasses.replace(config, **with_codecs(config, *pair)), explicit)
        except ConfigError:
            continue
        found.append(spec)
    return list(dict.fromkeys(found))
