"""`make figures`: the pictures and the numbers of the README and of Bandwidth Analysis, anew.

Pictures of experiments are drawn from their committed tables, the quickstart's from a run of its own; `--data-dir` adds the
one that needs CIFAR-10 (docs/bits.png). The numbers of README and docs/which_codec.md are printed; a test compares them with
these pages.
"""

import argparse
import csv
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "Bandwidth Analysis"
FOLDERS = {"mnist_quantise": "quantise"}  # experiments whose results are not in a folder of their own name


def redraw_experiments() -> Iterator[Path]:
    """The figure of every experiment whose tables are committed."""
    from fl.experiment.redraw import redraw
    from fl.experiment.spec import read_experiment

    for file in sorted((ROOT / "experiments").glob("*.yaml")):
        folder = RESULTS / FOLDERS.get(file.stem, file.stem)
        if (folder / "curves.csv").exists():
            yield redraw(read_experiment(file), folder)


def quickstart() -> str:
    """docs/quickstart.png: the dashboard of `make run`; what the README says of that run."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--config",
            "configs/quickstart.yaml",
            "--output-dir",
            folder,
            "--run-name",
            "quickstart",
            "--figures",
        ]
        subprocess.run([sys.executable, "main.py", *options], cwd=ROOT, check=True)
        shutil.copy(Path(folder) / "quickstart" / "dashboard.png", ROOT / "docs" / "quickstart.png")
        run = json.loads((Path(folder) / "quickstart" / "summary.json").read_text(encoding="utf-8"))
    first = run["parameters"] * 4 * 4 / 1e6
    return (
        f"That run: {100 * run['final_test_accuracy']:.1f} % on held-out digits after {run['rounds']} rounds in "
        f"{run['seconds']:.0f} s; uplink {run['total_uplink_bytes'] / 1e6:,.0f} MB where dense takes "
        f"{run['total_uplink_dense_bytes'] / 1e6:,.0f} MB, downlink {run['total_downlink_bytes'] / 1e6:,.0f} MB, "
        f"{first:,.0f} of them the first model to four clients, where dense takes "
        f"{run['total_downlink_dense_bytes'] / 1e6:,.0f} MB."
    )


def uplink_rows() -> list[str]:
    """The rows of the README's table of results, from `Bandwidth Analysis/cifar10_pfl_cnn/results.csv`."""
    runs = _runs("cifar10_pfl_cnn")
    dense, ours = ([run for run in runs if run["uplink"] == uplink] for uplink in ("none", "topk:0.01+log3+zstd"))
    ratio = _mean(dense, "uplink_bytes_to_target") / _mean(ours, "uplink_bytes_to_target")
    return [_uplink_row(dense, 0), f"{_uplink_row(ours, 1)[:-2]}: {ratio:.0f}x fewer |"]


def codec_rows() -> list[str]:
    """The rows of the table of codecs in docs/which_codec.md, from `Bandwidth Analysis/codecs/` and `advised.csv`."""
    with open(RESULTS / "advised.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["experiment"] == "codecs" and row["measured_rounds"]]
    rounds = {row["arm"]: f"{float(row['measured_rounds']):.2f}" for row in rows}
    return [
        f"| `{run['uplink']}` | {float(run['uplink_ratio']):.3g} | {100 * float(run['final_test_accuracy']):.1f} % | "
        f"{rounds.get(run['arm'], 'not reached')} |"
        for run in _runs("codecs")
    ]


def link_rows() -> list[str]:
    """The rows of the table of links in docs/which_codec.md, from `Bandwidth Analysis/links/links.csv`."""
    with open(RESULTS / "links" / "links.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    seconds = {(row["scheme"], row["mbit"]): f"{float(row['seconds']):.3g} s" for row in rows}
    size = {row["scheme"]: int(row["payload_bytes"]) for row in rows}
    schemes = {
        "fp32, payload": "`none`",
        "fp16, payload": "`fp16`",
        "top-k 1 %, int32 + fp32": "the largest 1 % as int32 and fp32",
        "ours: topk:0.01+bf16": "`topk:0.01+bf16`",
        "ours: topk:0.01+log3+zstd": "`topk:0.01+log3+zstd`",
    }
    return [
        f"| {name} | {size[scheme]:,} | {' | '.join(seconds[scheme, mbit] for mbit in ('10', '100', '1000'))} |"
        for scheme, name in schemes.items()
    ]


def unequal_sentence() -> str:
    """The README's sentence on unequal clients: virtual time to FedAvg's final accuracy, as a part of FedAvg's own time."""
    femnist, cifar = (_parts_of_the_time(_runs(f"{name}_unequal")) for name in ("femnist", "cifar10"))
    recovery = "pruning and recovery"
    return (
        f"FedAvg's final accuracy is reached in {femnist['FedBuff']:.2f} of its virtual time by FedBuff, "
        f"{femnist['HeteroFL']:.2f} by HeteroFL and {femnist[recovery]:.2f} by {recovery}; on CIFAR-10 {recovery} needs "
        f"{cifar[recovery]:.2f}"
    )


def compressed_sentence() -> str:
    """The README's sentence on unequal clients that compress, from `Bandwidth Analysis/cifar10_unequal_compressed/`."""
    runs = _runs("cifar10_unequal_compressed")
    whole = _mean([run for run in runs if run["arm"] == "FedAvg"], "virtual_time_s")

    def told(arm: str) -> tuple[str, str]:
        own = [run for run in runs if run["arm"] == arm]
        accuracy = [100 * float(run["final_test_accuracy"]) for run in own]
        part = _mean(own, "virtual_time_s") / whole
        return f"{statistics.fmean(accuracy):.1f} ± {statistics.stdev(accuracy):.1f} %", f"{part:.2f}"

    ours, part = told("FedAvg, compressed, half of the time")
    buffered, least = told("FedBuff, compressed")
    return (
        f"with the top 10 % upwards and the top 20 % downwards FedAvg ends at {ours} in {part} of its virtual time, and "
        f"FedBuff at {buffered} in {least}, where fp32 ends at {told('FedAvg')[0]}"
    )


def links_sentence() -> str:
    """The README's sentence on real links, from `Bandwidth Analysis/links/links.csv`."""
    with open(RESULTS / "links" / "links.csv", newline="", encoding="utf-8") as file:
        seconds = {(row["scheme"], row["mbit"]): f"{float(row['seconds']):.3g} s" for row in csv.DictReader(file)}
    codec = "topk:0.01+log3+zstd"
    both = [(seconds["fp32, payload", mbit], seconds[f"ours: {codec}", mbit]) for mbit in ("10", "100", "1000")]
    (slow, ours), *others = both
    rest = ", ".join(f"{dense} and {short}" for dense, short in others)
    return f"an update of ResNet-18 takes {slow} dense and {ours} with `{codec}` ({rest} at 100 and 1000 Mbit/s)"


def bits_sentence() -> str:
    """The README's sentence on the size of a sparse update, from `benchmarks/results/compress.csv`."""
    with open(ROOT / "benchmarks" / "results" / "compress.csv", newline="", encoding="utf-8") as file:
        rows = {row["codec"]: row for row in csv.DictReader(file) if row["update"] == "first"}
    ours, usual = rows["topk:0.01+log3+zstd"], rows["torch.topk 0.01, int32 + fp32"]
    bits, usual_bits = (float(row["payload_bits"]) for row in (ours, usual))
    ms, usual_ms = (float(row["encode_ms"]) for row in (ours, usual))
    return (
        f"1 % of the coordinates, chosen exactly, take {bits:.0f} bits each, positions and header included, where int32 and "
        f"fp32 take {usual_bits:.0f}; that takes {ms:.0f} ms on two cores (`torch.topk` with a gather: {usual_ms:.0f} ms)"
    )


def _parts_of_the_time(runs: list[dict[str, str]]) -> dict[str, float]:
    """Mean virtual time to the target over FedAvg's whole virtual time, of every arm all of whose seeds get there."""
    whole = _mean([run for run in runs if run["arm"] == "FedAvg"], "virtual_time_s")
    arms = {run["arm"]: [other for other in runs if other["arm"] == run["arm"]] for run in runs}
    return {
        arm: _mean(own, "virtual_time_to_target_s") / whole
        for arm, own in arms.items()
        if all(run["virtual_time_to_target_s"] for run in own)
    }


def _runs(experiment: str) -> list[dict[str, str]]:
    with open(RESULTS / experiment / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _uplink_row(runs: list[dict[str, str]], decimals: int) -> str:
    accuracy = [100 * float(run["final_test_accuracy"]) for run in runs]
    until = [float(run["uplink_bytes_to_target"]) / 1e6 for run in runs]
    sent = _mean(runs, "uplink_bytes") / 1e6
    return (
        f"| `{runs[0]['uplink']}` | {runs[0]['rounds']} | {statistics.fmean(accuracy):.2f} ± "
        f"{statistics.stdev(accuracy):.2f} % | {sent:,.{decimals}f} MB | {statistics.fmean(until):,.{decimals}f} ± "
        f"{statistics.stdev(until):.{decimals}f} MB |"
    )


def _mean(runs: list[dict[str, str]], column: str) -> float:
    return statistics.fmean(float(run[column]) for run in runs)


def main() -> None:
    """All of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="folder of all data sets, for docs/bits.png")
    data_dir = parser.parse_args().data_dir
    for picture in redraw_experiments():
        print(picture.relative_to(ROOT))
    subprocess.run([sys.executable, "Bandwidth Analysis/table1.py"], cwd=ROOT, check=True)
    print(f"docs/quickstart.png. {quickstart()}")
    if data_dir is not None:
        subprocess.run([sys.executable, "benchmarks/density.py", "--data-dir", data_dir], cwd=ROOT, check=True)
    print(
        "\n".join(
            [
                *uplink_rows(),
                *codec_rows(),
                *link_rows(),
                links_sentence(),
                unequal_sentence(),
                compressed_sentence(),
                bits_sentence(),
            ]
        )
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
