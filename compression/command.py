"""What `python -m compression describe` measures and shows."""

import math
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .describe import Description, describe
from .draws import uniform
from .finite import all_finite
from .layout import Layout
from .spec import SpecError

_THRESHOLD_NOTE = (
    "note: the random vector has standard deviation 1; --update FILE shows what a threshold keeps of a real one"
)
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_RATES = (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0))


def show(spec: str, model: str, update: Path | None, threads: int | None) -> None:
    """Describe a codec on a real `update`, or on a random vector of the shape of `model`.

    SpecError for a file that is none, and a network that cannot be made; NonFiniteError as `Codec.encode`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    layout, x = _read(update) if update else _random(model)
    _show(describe(spec, layout, x), str(update or model), random=update is None)


def _random(model: str) -> tuple[Layout, Tensor]:
    models, config, errors = (import_module(f"fl.{name}") for name in ("models", "common.config", "common.errors"))
    try:
        network = models.build_model(config.ModelOptions(model=model), classes=10, in_channels=3, image_size=32, seed=0)
    except errors.ConfigError as error:
        raise SpecError(str(error)) from None
    layout = Layout.of(network.named_parameters())
    u = uniform(0, layout.total, torch.device("cpu")).clamp_(1e-7, 1 - 1e-7)
    return layout, torch.special.ndtri(u)


def _read(path: Path) -> tuple[Layout, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SpecError(f"--update {path} is not a safetensors file: {error}") from None
    if not tensors:
        raise SpecError(f"--update {path} holds no tensor; it needs an update's tensors by parameter name")
    for name, tensor in tensors.items():
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise SpecError(f"--update {path}: tensor '{name}' holds {kind}; an update is of fp64, fp32, fp16 or bf16")
    x = torch.cat([tensor.float().flatten() for tensor in tensors.values()])
    if not all_finite(x):
        raise SpecError(f"--update {path}: the file holds NaN or infinity (after conversion to fp32)")
    return Layout.of(tensors.items()), x


def _show(found: Description, of: str, *, random: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    title = Text.assemble((found.spec, "bold"), f" on {of}: {found.coordinates:,} coordinates")  # a path is no markup
    console.print(title, soft_wrap=True)
    if random and found.spec.lstrip().startswith("threshold"):
        console.print(_THRESHOLD_NOTE, soft_wrap=True)
    table = Table(show_header=False)
    table.add_row("payload", f"{found.payload_bytes:,} bytes")
    table.add_row("dense fp32", f"{found.dense_bytes:,} bytes")
    table.add_row("ratio", _ratio(found))
    table.add_row("bits a coordinate", _digits(found.bits_per_coordinate))
    if found.values_sent is not None and found.bits_per_value is not None:
        bits = _digits(found.bits_per_value)
        table.add_row("values sent", f"{found.values_sent:,}, with their positions {bits} bits each")
    table.add_row("encode + decode", f"{_seconds(found.encode_s)} + {_seconds(found.decode_s)} here")
    table.add_row("break-even", _break_even(found))
    console.print(table)
    links = Table("one message over", "dense", found.spec)
    for megabits in (1, 10, 100, 1000, 10_000):
        dense, coded = found.seconds(1e6 * megabits)
        links.add_row(f"{megabits:,} Mbit/s", _seconds(dense), _seconds(coded))
    console.print(links)


def _ratio(found: Description) -> str:
    if found.payload_bytes == found.dense_bytes:
        return "as many bytes"
    if found.ratio < 1:
        return f"{_digits(1 / found.ratio)} times MORE bytes"
    return f"{_digits(found.ratio)} times fewer bytes"


def _break_even(found: Description) -> str:
    rate = found.break_even_bits_per_s
    if rate is None:
        return "none: the payload is not smaller than dense"
    unit, size = next((pair for pair in _RATES if rate >= pair[1]), _RATES[-1])
    return f"{_digits(rate / size)} {unit}: on a faster link, dense fp32 is faster"


def _seconds(value: float) -> str:
    return f"{_digits(value)} s" if value >= 1 else f"{_digits(1e3 * value)} ms"


def _digits(value: float) -> str:
    """Three significant digits, or all those before the point."""
    decimals = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{decimals}f}"
