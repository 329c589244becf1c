"""`make bench-density`: bits against density on a real update of ResNet-18, with the entropy bound; draws docs/bits.png."""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from updates import real_updates

from compression import make_codec
from compression.index import IndexFormat, encode_index
from fl.common.paths import expanded

DENSITIES = np.logspace(-4, np.log10(0.5), 16)
INDEX = {"Elias-Fano": IndexFormat.ELIAS_FANO, "Rice": IndexFormat.RICE, "gaps + zstd": IndexFormat.GAPS}
PAYLOADS = ("topk:{:g}", "topk:{:g}+bf16", "topk:{:g}+bf16+zstd", "topk:{:g}+int8+zstd", "topk:{:g}+log3+zstd")


def entropy(p: np.ndarray) -> np.ndarray:
    """Bits a coordinate of a pattern in which each is kept with probability p, independently."""
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=expanded, default="data", help="folder with CIFAR-10")
    parser.add_argument(
        "--updates", type=expanded, default=Path("outputFolder/updates"), help="where the updates are kept"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=expanded, default=Path("docs/bits.png"))
    options = parser.parse_args()
    layout, x = real_updates(options.data_dir, options.updates, options.threads)["first"]
    order = x.abs().sort(descending=True, stable=True).indices

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for label, form in INDEX.items():
        kept = [order[: max(1, round(p * x.numel()))].sort().values for p in DENSITIES]
        left.plot(
            DENSITIES, [8 * encode_index(form, at, x.numel()).numel() / at.numel() for at in kept], ".-", label=label
        )
    left.plot(DENSITIES, entropy(DENSITIES) / DENSITIES, "k--", label="entropy if spread evenly, H(p) / p")
    left.axhline(32, color="grey", lw=1, label="int32, as usual")
    left.set(xscale="log", xlabel="density p", ylabel="bits a kept coordinate", title="positions alone", ylim=(0, 34))
    for spec in PAYLOADS:
        sizes = [8 * make_codec(spec.format(p)).encode(x, layout)[0].numel() / x.numel() for p in DENSITIES]
        right.plot(DENSITIES, sizes, ".-", label=spec.replace(":{:g}", ":p"))
    right.plot(DENSITIES, entropy(DENSITIES), "k--", label="entropy of evenly spread positions, H(p)")
    right.plot(DENSITIES, 64 * DENSITIES, color="grey", lw=1, label="int32 + fp32, as usual")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="density p",
        ylabel="bits a coordinate",
        title="whole payload, header included",
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"A first update of ResNet-18 on CIFAR-10, {x.numel():,} coordinates", fontsize=11)
    figure.savefig(options.out, dpi=150)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
