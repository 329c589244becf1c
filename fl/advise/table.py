"""The Pareto table for a terminal, the line to paste, and the same as JSON."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from .advice import Advice
from .choose import Pair, front
from .confirm import Confirmed
from .measure import Measured

_MESSAGE = ("codec", "bytes", "fewer", "encode", "decode", "error", "cosine", "energy")
_RUN = ("behind", "rounds", "wins below", "round", "worth")


def table(advice: Advice) -> Table:
    """Codecs on the Pareto front of bytes and rounds in each direction, and those that the user named.

    `round` is the time of a whole round with this codec and, the other way, the advised one; `worth` the time until what
    one round without compression does.
    """
    config, dense = advice.config, advice.dense
    title = (
        f"{config.model} on {config.dataset}, {advice.coordinates:,} coordinates, link {advice.link}: a round takes "
        f"{_s(dense.round_s)} without compression, of which local training {_s(advice.round.train_s)} here"
    )
    shown = Table(title=Text(title), title_justify="left", title_style="bold", pad_edge=False)
    for name in (*_MESSAGE, *_RUN):
        is_codec = name == "codec"
        shown.add_column(name, style="cyan" if is_codec else "", justify="left" if is_codec else "right")
    ways = (("uplink", advice.ups, advice.advised.up), ("downlink", advice.downs, advice.advised.down))
    for way, found, advised in ways:
        shown.add_row(Text(way, style="bold"))
        for one in _rows(advice, found, advised):
            up, down = (one, advice.advised.down) if way == "uplink" else (advice.advised.up, one)
            pair = advice.round.pair(up, down)
            shown.add_row(*map(Text, _cells(one, pair)), style="bold green" if one is advised else "")
        shown.add_section()
    return shown


def _rows(advice: Advice, found: Sequence[Measured], advised: Measured) -> list[Measured]:
    keep = {one.cost.spec for one in front(found)} | {"none", advised.cost.spec} | advice.named
    return sorted((one for one in found if one.cost.spec in keep), key=lambda one: -one.cost.payload_bytes)


def _cells(one: Measured, pair: Pair) -> list[str]:
    cost, rate = one.cost, one.cost.break_even_bits_per_s
    return [
        cost.spec,
        f"{cost.payload_bytes:,}",
        f"{cost.ratio:,.1f}x",
        _s(cost.encode_s),
        _s(cost.decode_s),
        f"{one.error:.3f}",
        f"{one.cosine:.3f}",
        f"{one.energy:.3f}",
        f"{one.behind:.3f}",
        _times(one.rounds),
        "-" if rate is None else f"{rate / 1e6:,.0f} Mbit/s" if rate > 1e8 else f"{rate / 1e6:.3g} Mbit/s",
        _s(pair.round_s),
        "-" if math.isinf(pair.seconds) else _s(pair.seconds),
    ]


def _times(rounds: float) -> str:
    return "-" if math.isinf(rounds) else f"{rounds:.2f}x"


def _s(seconds: float) -> str:
    """Three digits or so."""
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    return f"{seconds:,.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def confirmed_table(found: Sequence[Confirmed], rounds: int) -> Table:
    """What runs of so many rounds came to."""
    shown = Table(
        title=f"Confirmed by runs of {rounds} rounds", title_justify="left", title_style="bold", pad_edge=False
    )
    for name in ("uplink", "downlink", "validation", "rounds, expected", "rounds, measured", "round", "worth"):
        is_codec = name.endswith("link")
        shown.add_column(name, style="cyan" if is_codec else "", justify="left" if is_codec else "right")
    for one in found:
        cells = [*one.pair.specs, one.words, _times(one.expected), _times(one.pair.rounds), _s(one.pair.round_s)]
        shown.add_row(*map(Text, [*cells, "-" if math.isinf(one.pair.seconds) else _s(one.pair.seconds)]))
    return shown


def as_json(advice: Advice, confirmed: Sequence[Confirmed], chosen: Pair) -> dict[str, Any]:
    """Everything that was measured."""

    def codec(one: Measured) -> dict[str, Any]:
        cost = dataclasses.asdict(one.cost)
        own = {"error": one.error, "cosine": one.cosine, "energy": one.energy, "behind": _finite(one.behind)}
        return {**cost, "break_even_bits_per_s": one.cost.break_even_bits_per_s, **own, "rounds": _finite(one.rounds)}

    def pair(one: Pair) -> dict[str, Any]:
        up, down = one.specs
        return {
            "uplink": up,
            "downlink": down,
            "round_s": one.round_s,
            "rounds": _finite(one.rounds),
            "seconds": _finite(one.seconds),
        }

    return {
        "model": advice.config.model,
        "dataset": advice.config.dataset,
        "link": advice.link,
        "seed": advice.config.seed,
        "coordinates": advice.coordinates,
        "train_s": advice.round.train_s,
        "clients_per_round": advice.round.clients,
        "uplink_messages": advice.messages[0],
        "downlink_messages": advice.messages[1],
        "uplink": [codec(one) for one in advice.ups],
        "downlink": [codec(one) for one in advice.downs],
        "dense": pair(advice.dense),
        "advised": {**pair(chosen), "options": chosen.options},
        "confirmed": [
            {**pair(one.pair), "expected_rounds": _finite(one.expected), "validation": one.score} for one in confirmed
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
