"""`python -m compression describe SPEC --model NAME`: what a codec costs and saves on a model of that shape."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from .describe import Description, describe
from .draws import uniform
from .errors import NonFiniteError
from .layout import Layout
from .make import make_codec
from .spec import SpecError

_EPILOG = (
    "Without --update the vector is random, with magnitudes spread as a normal distribution's and positions without any "
    "pattern: the worst case for coding positions. A real update (see docs/compression.md) takes fewer bytes."
)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a user's mistake is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="python -m compression", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("describe", help="bytes, ratio and break-even bandwidth of a codec", epilog=_EPILOG)
    command.add_argument("spec", help="the codec, as in topk:0.01+log3+zstd")
    command.add_argument("--model", default="resnet18", help="a built-in network, for 10 classes of 3x32x32 images")
    command.add_argument("--update", type=Path, help="a safetensors file with a real update, tensors by name")
    command.add_argument("--threads", type=int, default=None, help="CPU threads for the times")
    options = parser.parse_args(argv)
    try:
        if options.threads is not None:
            if options.threads < 1:
                raise SpecError(f"--threads {options.threads} must be at least 1")
            torch.set_num_threads(options.threads)
        make_codec(options.spec)
        layout, x = _read(options.update) if options.update else _random(options.model)
        description = describe(options.spec, layout, x)
    except (SpecError, NonFiniteError) as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    _show(description, str(options.update or options.model))


def _random(model: str) -> tuple[Layout, Tensor]:
    # The networks are the trainer's; the library itself never imports it.
    models, config, errors = (import_module(f"fl.{name}") for name in ("models", "config", "errors"))
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

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise SpecError(f"--update {path} is not a safetensors file: {error}") from None
    if not tensors:
        raise SpecError(f"--update {path} holds no tensor; it needs an update's tensors by parameter name")
    return Layout.of(tensors.items()), torch.cat([tensor.float().flatten() for tensor in tensors.values()])


def _show(found: Description, of: str) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{found.spec}[/bold] on {of}: {found.coordinates:,} coordinates, {found.kept:,} sent")
    table = Table(show_header=False)
    rows = {
        "payload": f"{found.payload_bytes:,} bytes",
        "dense fp32": f"{found.dense_bytes:,} bytes",
        "ratio": f"{found.ratio:,.1f} times fewer bytes",
        "bits": f"{found.bits_per_coordinate:.3f} a coordinate, {found.bits_per_kept:.2f} a coordinate sent",
        "encode + decode": f"{1e3 * found.encode_s:.1f} + {1e3 * found.decode_s:.1f} ms here",
        "break-even": _break_even(found),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
    links = Table("one message over", "dense", found.spec, title="seconds", title_justify="left")
    for megabits in (1, 10, 100, 1000, 10_000):
        dense, coded = found.seconds(1e6 * megabits)
        links.add_row(f"{megabits:,} Mbit/s", f"{dense:.3f}", f"{coded:.3f}")
    console.print(links)


def _break_even(found: Description) -> str:
    rate = found.break_even_bits_per_s
    if rate is None:
        return "none: the payload is not smaller than dense"
    return f"{rate / 1e6:,.0f} Mbit/s: on a faster link, dense fp32 is faster"


if __name__ == "__main__":
    main()
