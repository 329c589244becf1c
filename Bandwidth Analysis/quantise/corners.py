"""The four corners of pruning and quantisation: exports every run of the experiment, with 8-bit and with 4-bit weights.

Writes export.csv, a row a run, and table.md, mean ± sample standard deviation over the seeds. Run it after the experiment;
`make quantise` does both.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from fl.common.paths import expanded
from fl.experiment.matrix import matrix
from fl.experiment.spec import read_experiment
from fl.export import export_run

BITS = (8, 4)


def main() -> None:
    """Export, and write both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", type=expanded, default=Path("experiments/mnist_quantise.yaml"))
    parser.add_argument("--runs", default="outputFolder", help="the experiment's --output-dir")
    parser.add_argument("--data-dir", default="data", help="folder with MNIST")
    parser.add_argument("--out", type=expanded, default=Path(__file__).resolve().parent)
    options = parser.parse_args()
    experiment = read_experiment(options.experiment)
    rows = []
    for run in matrix(experiment, data_dir=options.data_dir, output_dir=options.runs, threads=None):
        reports = {
            bits: export_run(run.folder, run.folder / f"export{bits}", bits=bits, data_dir=options.data_dir)
            for bits in BITS
        }
        summary = json.loads((run.folder / "summary.json").read_text())
        first = reports[BITS[0]]
        row = {
            "arm": run.arm.name,
            "seed": run.seed,
            "test_accuracy": summary["final_test_accuracy"],
            "uplink_bytes": summary["total_uplink_bytes"],
            "downlink_bytes": summary["total_downlink_bytes"],
            "parameters": first["parameters"],
            "nonzero": first["nonzero"],
            **measured("fp32", first["files"], "model"),
        }
        for bits, report in reports.items():
            row |= measured(f"int{bits}", report["files"], "quantised")
        rows.append(row)
    with open(options.out / "export.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (options.out / "table.md").write_text(table(rows, [arm.name for arm in experiment.arms]), encoding="utf-8")


def measured(name: str, files: dict, form: str) -> dict[str, float]:
    """Bytes of both files of a form, and the test accuracy of what they hold."""
    return {
        f"{name}_safetensors_bytes": files[f"{form}.safetensors"]["bytes"],
        f"{name}_payload_bytes": files[f"{form}.leanfed"]["bytes"],
        f"{name}_test_accuracy": files[f"{form}.leanfed"]["test_accuracy"],
    }


def table(rows: Sequence[dict], arms: Sequence[str]) -> str:
    """A Markdown table, one line an arm."""
    columns = {
        "test accuracy, %": ("test_accuracy", 100, 2),
        "uplink, MB": ("uplink_bytes", 1e-6, 2),
        "downlink, MB": ("downlink_bytes", 1e-6, 2),
        "weights left": ("nonzero", 1, 0),
        "fp32 file, kB": ("fp32_payload_bytes", 1e-3, 1),
        "fp32, %": ("fp32_test_accuracy", 100, 2),
        "8-bit file, kB": ("int8_payload_bytes", 1e-3, 1),
        "8 bits, %": ("int8_test_accuracy", 100, 2),
        "4-bit file, kB": ("int4_payload_bytes", 1e-3, 1),
        "4 bits, %": ("int4_test_accuracy", 100, 2),
    }
    lines = [["arm", *columns], ["---"] * (len(columns) + 1)]
    for arm in arms:
        cells = [arm]
        for name, factor, digits in columns.values():
            values = [row[name] * factor for row in rows if row["arm"] == arm]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            exact = spread < 0.5 * 10**-digits
            cells.append(f"{statistics.fmean(values):.{digits}f}" + ("" if exact else f" ± {spread:.{digits}f}"))
        lines.append(cells)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    main()
