"""The runs of one tree for benchmarks/same.py: `python same_runs.py JOBS.json FOLDER`, with that tree first on PYTHONPATH.

Only the program's public face is used, so that any version of it can be asked. A job that fails leaves its error in
summary.json: that, too, is compared.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_REPORTS = ("fl.output.report", "fl.report")  # where figures are drawn, which are not compared and take seconds


def main() -> None:
    """All jobs, each in its own folder; those of several ranks under torchrun."""
    jobs, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    if len(sys.argv) > 3:
        one = next(job for job in jobs if job["name"] == sys.argv[3])
        _train(one, folder)
        return
    for job in jobs:
        if job["ranks"] > 1:
            ranks = ["--nproc_per_node", str(job["ranks"]), "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
            program = [__file__, sys.argv[1], sys.argv[2], job["name"]]
            subprocess.run([sys.executable, "-m", "torch.distributed.run", *ranks, *program], check=True)
        else:
            _train(job, folder)


def _train(job: dict[str, Any], folder: Path) -> None:
    _draw_nothing()
    from fl import train

    options = {**job["options"], "output_dir": str(folder), "run_name": job["name"]}
    try:
        if job["stop"]:
            train(**{**options, "rounds": job["stop"]})
            train(resume="auto", output_dir=str(folder), run_name=job["name"], rounds=options["rounds"], quiet=True)
        else:
            train(**options)
    except Exception as error:
        (folder / job["name"]).mkdir(parents=True, exist_ok=True)
        (folder / job["name"] / "summary.json").write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}))


def _draw_nothing() -> None:
    for name in _REPORTS:
        try:
            importlib.import_module(name).write_report = lambda folder, **_: []  # type: ignore[attr-defined]
        except ModuleNotFoundError:
            continue


if __name__ == "__main__":
    main()
