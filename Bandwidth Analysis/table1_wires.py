"""What three wires take for the same zeros: one trained ResNet12, pruned at every rate as the clients prune.

Part of `make table1`. For LeNet-5 every wire has runs of its own; ResNet12 would train for hours to say the same. Here one
client trains one epoch from the first weights, as in round 0 of a run, its weights are pruned at each arm's rate, and what
is left is sent as csr, fp32+zstd and bf16+zstd, with the BatchNorm statistics as in a run. (The global model will not do: a
mean of a few bf16 numbers has empty low bits, and fp32+zstd would look too small.) Writes `table1_wires.csv`; raises if csr
and fp32 do not decode to the same bits.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from compression import Layout, make_codec
from compression.codec import BUFFERS, SparseCodec
from compression.select import Threshold
from compression.wire import Kind
from fl.common.config import Config
from fl.common.paths import expanded
from fl.data import load_dataset
from fl.data.normalise import Normaliser
from fl.experiment import read_experiment
from fl.models import build_model
from fl.pruning.choose import choose_mask, protected_layers
from fl.pruning.filters import choose_filters
from fl.pruning.spec import parse_pruning
from fl.training.engine.plain import PlainEngine

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parent / "experiments"
WIRES = {"csr": "csr_codec:csr", "fp32": "fp32+zstd", "bf16": "bf16+zstd"}
COLUMNS = ("dataset", "model", "arm", "nonzero", "csr", "fp32", "bf16", "dense")


def train_client(config: Config, data_dir: str) -> tuple[Layout, Tensor, Tensor]:
    """A client's layout, weights, fp32 [n], and BatchNorm statistics, fp32 [m], after its first epoch."""
    config = replace(config, data_dir=data_dir, download=False)
    data = load_dataset(config, seed=config.seed)
    model = build_model(
        config, classes=data.classes, in_channels=data.channels, image_size=data.image_size, seed=config.seed
    )
    engine = PlainEngine(config, model, torch.device("cpu"))
    own = slice(len(data.train) // (config.clients or 1))  # the images are in no order
    x = Normaliser(data.train.x)(data.train.x[own], engine.memory_format)
    engine.start(config.lr)
    for images, labels in zip(x.split(config.batch_size), data.train.y[own].split(config.batch_size), strict=True):
        engine.step(images, labels)
    engine.finish()
    layout = Layout.of(model.named_parameters())
    statistics = [b.flatten() for _, b in model.named_buffers() if b.is_floating_point()]
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    return layout, parameters, torch.cat(statistics) if statistics else torch.empty(0)


def pruned(weights: Tensor, layout: Layout, prune: str) -> Tensor:
    """`weights`, fp32 [n], without what the specification of `--prune` drops."""
    pruning = parse_pruning(prune)
    protected = protected_layers(layout, pruning.protect)
    if pruning.method == "filters":
        return weights * choose_filters(weights, layout, pruning.sparsity, protected=protected)
    return weights * choose_mask(weights.abs(), layout, pruning.sparsity, protected=protected)


def sizes(weights: Tensor, statistics: Tensor, layout: Layout) -> dict[str, int]:
    """Bytes of one client's upload by wire, and `dense`: all of it in fp32, headers included."""
    found, exact = {}, []
    beside = BUFFERS.encode(statistics)[0].numel() if statistics.numel() else 0
    for wire, spec in WIRES.items():
        codec = make_codec(spec)
        if isinstance(codec, SparseCodec):
            codec = replace(codec, selector=Threshold(0.0), kind=Kind.WEIGHTS)  # all that are not zero
        payload, _ = codec.encode(weights, layout)
        found[wire] = payload.numel() + beside
        if wire != "bf16":
            exact.append(codec.decode(payload, layout.total, layout).dense())
    if not all(torch.equal(decoded, weights) for decoded in exact):
        raise AssertionError("csr and fp32+zstd must both decode to the weights that were sent")
    return {**found, "dense": make_codec("none").encode(weights)[0].numel() + beside}


def main() -> None:
    """Measure every arm of the experiments that prunes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=expanded, default="data", help="folder with MNIST and CIFAR-10")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for file in ("table1_resnet12_mnist", "table1_resnet12_cifar10"):
        configs = {arm.name: Config(**arm.given) for arm in read_experiment(EXPERIMENTS / f"{file}.yaml").arms}
        layout, trained, statistics = train_client(next(iter(configs.values())), options.data_dir)
        for arm, config in configs.items():
            if config.prune != "none":
                weights = pruned(trained, layout, config.prune)
                name = {"dataset": config.dataset, "model": config.model, "arm": arm.removesuffix(" bf16")}
                lines.append({**name, "nonzero": int(weights.count_nonzero()), **sizes(weights, statistics, layout)})
    with open(HERE / "table1_wires.csv", "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
