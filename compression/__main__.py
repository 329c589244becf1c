"""`python -m compression describe SPEC --model NAME`: what a codec costs and saves on a model of that shape."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from .describe import Description, describe
from .draws import uniform
from .errors import NonFiniteError, all_finite
from .layout import Layout
from .make import make_codec
from .spec import SpecError

_EPILOG = (
    "Without --update the vector is random, with magnitudes spread as a normal distribution's and positions without any "
    "pattern: the worst case for coding positions. A real update (see docs/compression.md) takes fewer bytes."
)
_THRESHOLD_NOTE = (
    "note: the random vector has standard deviation 1; --update FILE shows what a threshold keeps of a real one"
)
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_RATES = (("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0))
_THREADS_PER_CORE = 4


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a user's mistake is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m compression", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("describe", help="bytes, ratio and break-even bandwidth of a codec", epilog=_EPILOG)
    command.add_argument("spec", help="the codec, as in topk:0.01+log3+zstd")
    command.add_argument(
        "--model", default="resnet18", help="a network of the trainer's, for 10 classes of 3x32x32 images"
    )
    command.add_argument("--update", type=Path, help="a safetensors file with a real update, tensors by name")
    command.add_argument("--threads", type=int, default=None, help="CPU threads for the times")
    options = parser.parse_args(argv)
    try:
        make_codec(options.spec)
        _set_threads(options.threads)
        layout, x = _read(options.update) if options.update else _random(options.model)
        description = describe(options.spec, layout, x)
    except (SpecError, NonFiniteError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    _show(description, str(options.update or options.model), random=options.update is None)


def _set_threads(threads: int | None) -> None:
    most = _THREADS_PER_CORE * (os.cpu_count() or 1)
    if threads is not None:
        if not 1 <= threads <= most:
            raise SpecError(f"--threads {threads} must lie between 1 and {most}, {_THREADS_PER_CORE} for each core")
        torch.set_num_threads(threads)


def _random(model: str) -> tuple[Layout, Tensor]:
    # The networks are the trainer's; the library itself never imports it.
    try:
        models, config, errors = (import_module(f"fl.{name}") for name in ("models", "common.config", "common.errors"))
    except ImportError as error:
        raise SpecError(
            f"--model {model}: the networks come with the trainer, which is not there ({error}); "
            "give --update FILE instead"
        ) from None
    try:
        network = models.build_model(config.ModelOptions(model=model), classes=10, in_channels=3, image_size=32, seed=0)
    except errors.ConfigError as error:
        raise SpecError(str(error)) from None
    layout = Layout.of(network.named_parameters())
    u = uniform(0, layout.total, torch.device("cpu")).clamp_(1e-7, 1 - 1e-7)
    return layout, torch.special.ndtri(u)


def _read(path: Path) -> tuple[Layout, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise SpecError(f"--update {path} does not exist")
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


if __name__ == "__main__":
    main()
