"""`make bench-memory`: peak memory of ranks that each train one client, beside that of a bare loop with the same steps.

A ResNet-50, 8 ranks on one machine, top-1 % with error feedback and FedYogi. A bare loop has the model, its gradients and
the activations. A rank needs the global model and a residual besides, two copies of the model more; rank 0 also has
what the server does: the mean, its optimizer's two moments, and what it can go back to if a round fails.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import machine, show
from torch.nn import functional

from fl.common.config import Config
from fl.common.paths import expanded
from fl.data import load_dataset
from fl.models import build_model

ROOT = Path(__file__).resolve().parents[1]
BATCH, STEPS = 4, 2


def config(data_dir: str, folder: str = "", ranks: int = 1) -> Config:
    """The run."""
    return Config(
        dataset="cifar10",
        data_dir=data_dir,
        download=False,
        model="resnet50",
        clients=ranks,
        rounds=3,
        batch_size=BATCH,
        local_steps=STEPS,
        lr=0.01,
        momentum=0.0,
        precision="fp32",
        uplink="topk:0.01",
        downlink="topk:0.01",
        server="fedyogi",
        threads=1,
        limit_test=8,
        limit_train=800,
        val_fraction=0.0,
        eval_every=10,
        output_dir=folder,
        run_name="run",
        quiet=True,
    )


def peak() -> int:
    """Peak of this process's memory, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bare(data_dir: str) -> None:
    """In a process of its own: a bare loop."""
    options = config(data_dir)
    data = load_dataset(options, seed=0)
    model = build_model(options, classes=10, in_channels=3, image_size=32, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr)
    for step in range(3 * STEPS):
        batch = slice(step * BATCH, (step + 1) * BATCH)
        functional.cross_entropy(model(data.train.x[batch].float() / 255), data.train.y[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    size = sum(4 * parameter.numel() for parameter in model.parameters())
    sys.stdout.write(json.dumps({"peak": peak(), "model": size}) + "\n")


def rank(data_dir: str, folder: str) -> None:
    """In a process of its own: one rank of the run."""
    import fl.output.report
    from fl.run.loop import run

    fl.output.report.try_report = lambda *_, **__: None
    run(config(data_dir, folder, int(os.environ["WORLD_SIZE"])))
    path = Path(folder) / f"peak{os.environ['RANK']}.json"
    path.write_text(json.dumps({"peak": peak()}))


def main() -> None:
    """Run both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=expanded, default="data")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--as", dest="role", choices=["bare", "rank"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.role == "bare":
        bare(str(args.data_dir))
        return
    if args.role == "rank":
        rank(str(args.data_dir), args.folder)
        return
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    own = [str(Path(__file__).resolve()), f"--data-dir={args.data_dir}"]
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={args.ranks}"]
    done = subprocess.run([sys.executable, *own, "--as=bare"], env=environment, check=True, capture_output=True)
    floor = json.loads(done.stdout.splitlines()[-1])
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *launch, *own, "--as=rank", f"--folder={folder}"]
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        peaks = [json.loads((Path(folder) / f"peak{each}.json").read_text())["peak"] for each in range(args.ranks)]
    rows = [
        [name, f"{most / 1e6:,.0f}", f"{(most - floor['peak']) / floor['model']:+.1f}"]
        for name, most in (("bare loop", floor["peak"]), ("rank 0", peaks[0]), ("largest other rank", max(peaks[1:])))
    ]
    title = f"ResNet-50, {floor['model'] / 1e6:.0f} MB, {args.ranks} ranks, batches of {BATCH}; {machine()}"
    show(title, ["", "MB at its peak", "copies of the model above a bare loop"], rows)


if __name__ == "__main__":
    main()
