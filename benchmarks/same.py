"""`make same OLD=<commit>`: whether the working tree trains to the same bits and bytes as an older commit.

A matrix of tiny runs, one for every feature and the pairs that matter, is made in a clean worktree of OLD and in the
working tree, on this machine. Compared are the model's SHA-256, and every table and figure that a run leaves behind but
for times and paths; a column or file that only one of them has is told, and is no difference. Exit status 1 for any
difference. `--only WORD...` takes the runs whose names hold one of these words.

This proves a refactoring: nothing may change. Where a change is meant (a bug), the commit says which runs differ and why.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_USER_MODULE = "leanfed_same_user"
_USER_CODE = '''
from torch import nn


def norm_model(classes, in_channels):
    """A small network with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(64, classes),
    )


def dense_model(classes, in_channels):
    """Layers that several clients can train at once."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, classes))
'''
_BASE = {
    **{"dataset": "digits", "model": "lenet5", "limit_train": 240, "limit_test": 60, "clients": 4, "rounds": 4},
    **{
        "local_steps": 2,
        "batch_size": 16,
        "lr": 0.05,
        "threads": 1,
        "device": "cpu",
        "precision": "fp32",
        "quiet": True,
    },
}
_BATCH_NORM = {"model": f"{_USER_MODULE}:norm_model"}
_PROFILES = {"profiles": "mix:good=0.5+2g=0.5", "clients": 6, "clients_per_round": 3, "partition": "dirichlet:0.5"}
_PLAIN = {"momentum": 0.0, "error_feedback": "none"}


@dataclass(frozen=True)
class Case:
    """A run by its options; `old`: options that the older commit spells otherwise. With `stop` it is stopped after so many
    rounds and resumed."""

    options: Mapping[str, Any]
    ranks: int = 1
    stop: int = 0
    old: Mapping[str, Any] = field(default_factory=dict)


CASES: dict[str, Case] = {
    "plain": Case({"uplink": "none"}),
    "batch norm, bf16": Case({**_BATCH_NORM, "uplink": "topk:0.1", "precision": "bf16"}),
    "codecs both ways": Case({"uplink": "topk:0.05+log3+zstd", "downlink": "topk:0.1+bf16"}),
    "dgc, warm-up": Case({"uplink": "topk:0.02", "error_feedback": "dgc:0.9", "momentum": 0.0, "uplink_warmup": 3}),
    "no feedback, random k": Case({"uplink": "randk:0.2+int8", "error_feedback": "none", "downlink": "int8"}),
    "powersgd": Case({"uplink": "powersgd:2+bf16", "downlink": "powersgd:1", "server": "fedavgm"}),
    "cost, sign": Case({"uplink": "cost:0.1+sign", "downlink": "prune:0.9+log4"}),
    "threshold, qsgd": Case({"uplink": "threshold:0.01+qsgd:7", "clip_norm": 1.0, "lr_schedule": "cosine"}),
    "sampling, dirichlet": Case({"clients": 7, "clients_per_round": 3, "partition": "dirichlet:0.3"}),
    "fedadam": Case({**_BATCH_NORM, "server": "fedadam", "optimizer": "adam", "lr": 0.002}),
    "fedyogi": Case({"server": "fedyogi", "optimizer": "adamw", "lr": 0.002, "downlink": "topk:0.2"}),
    "fedadagrad": Case({"server": "fedadagrad", "client_eval": 0.2}),
    "fedprox": Case({"algorithm": "fedprox:0.1", "partition": "labels:3"}),
    "fednova": Case({"algorithm": "fednova", "partition": "quantity:1", "local_steps": None, "local_epochs": 1}),
    "scaffold": Case({"algorithm": "scaffold", **_PLAIN, "clients": 5, "clients_per_round": 3}),
    "feddyn": Case({"algorithm": "feddyn:0.1", **_PLAIN, "uplink": "int8"}),
    "median": Case({"aggregate": "median", **_BATCH_NORM, "clients": 5, "uplink": "topk:0.2"}),
    "trimmed": Case({"aggregate": "trimmed:0.3", "uplink": "topk:0.2", "downlink": "topk:0.2", "server": "fedadam"}),
    "krum": Case({"aggregate": "krum:1", **_BATCH_NORM, "clients": 6, "clients_per_round": 5}),
    "multikrum": Case({"aggregate": "multikrum:1", "clients": 5, "uplink": "topk:0.2", "prune": "magnitude:0.5"}),
    "clip": Case({"aggregate": "clip:0.5", "uplink": "topk:0.1"}),
    "private": Case({"dp": "clip:1,noise=1,delta=1e-5,adaptive=0.5", "seed": 1, "clients": 6, "clients_per_round": 2}),
    "magnitude": Case({"prune": "magnitude:0.8", "prune_schedule": "cubic:0,3,1", "uplink": "topk:0.2+log3"}),
    "magnitude, rewind, finetune": Case(
        {"prune": "magnitude:0.7,rewind", "prune_schedule": "iterative:0,2,1", "finetune_rounds": 1},
        old={"prune": "magnitude:0.7", "prune_rewind": True},
    ),
    "snip by client": Case({"prune": "snip:0.7,by=client", "uplink": "topk:0.2"}),
    "gradient by server": Case({"prune": "gradient:0.5", "prune_schedule": "oneshot:2", **_BATCH_NORM}),
    "random": Case({"prune": "random:0.5", "downlink": "int8"}),
    "after": Case({"prune": "magnitude:0.6,by=after", "uplink": "bf16", "error_feedback": "none"}),
    "filters": Case({"prune": "filters:0.3", **_BATCH_NORM}),
    "structured": Case({"prune": "structured:0.4", "prune_schedule": "linear:1,3,1", **_BATCH_NORM}),
    "structured by client": Case({"prune": "structured:0.3,by=client", "server": "fedadam"}),
    "prunefl": Case({"prune": "prunefl:0.7,every=2", "uplink": "topk:0.3+bf16"}),
    "levels, recovery": Case(
        {
            "prune": "magnitude:0.1",
            "capabilities": "groups:1.0x1+0.5x3",
            "recover": "schedule:1,1",
            "uplink": "topk:0.3",
        }
    ),
    "levels, plateau": Case(
        {
            **{"prune": "gradient:0.2,mean=cohort", "capabilities": "groups:1.0x2+0.3x2", "recover": "plateau:1,0.5"},
            **{"val_fraction": 0.3, "prune_schedule": "oneshot:2"},
        },
        old={"prune": "gradient:0.2", "part_mean": "cohort"},
    ),
    "width": Case({"prune": "width:1", "capabilities": "groups:1.0x1+0.5x3", "partition": "labels:3", **_BATCH_NORM}),
    "width, rolling": Case({"prune": "width:0.5,shift=rolling"}),
    "buffered": Case({"mode": "buffered:2", **_PROFILES, "uplink": "topk:0.1", "staleness": "poly:0.5", **_BATCH_NORM}),
    "buffered, latest": Case(
        {"mode": "buffered:2,latest", **_PROFILES, "lost": 0.2, "timeout": 60},
        old={"mode": "buffered:2", "buffer": "latest"},
    ),
    "buffered, levels": Case(
        {
            **_PROFILES,
            "mode": "buffered:2",
            "prune": "magnitude:0.1",
            "capabilities": "uniform:0.3,1",
            "uplink": "topk:0.3",
        }
    ),
    "async": Case({"mode": "async:0.5", **_PROFILES, "staleness": "hinge:2,1", **_BATCH_NORM}),
    "deadline, drop": Case({"deadline": 20, **_PROFILES, "over_select": 1.5, "uplink": "topk:0.1"}),
    "deadline, carry": Case({"deadline": 20, "late": "carry", **_PROFILES, "uplink": "topk:0.1"}),
    "shares": Case({**_PROFILES, "uplink": "topk:0.2", "uplink_shares": "equal_time:0.2"}),
    "online": Case({**_PROFILES, "prune": "magnitude:0.1", "capabilities": "online:0.3", "uplink": "topk:0.3"}),
    "sparse masks": Case(
        {**_PROFILES, "profiles": "mix:good=0.5+2g=0.5,sparse", "prune": "magnitude:0.8"},
        old={"profiles": "mix:good=0.5+2g=0.5", "cost_model": "sparse"},
    ),
    "limits, diurnal": Case(
        {**_PROFILES, "server_up_limit": 3e4, "server_down_limit": 1e5, "sampling": "diurnal:4,0.6"}
    ),
    "power of choice": Case({"clients": 8, "clients_per_round": 3, "sampling": "power:5"}),
    "hook": Case({"exchange": "hook", "clients": 1, "uplink": "topk:0.1", "server": "fedadam"}),
    "step": Case({"mode": "step", "clients": 1, "uplink": "topk:0.1+bf16", **_BATCH_NORM}),
    "qat": Case({"qat": 8, "uplink": "topk:0.2"}),
    "regression": Case(
        {
            "dataset": "csv:table.csv,target=y,task=regression",
            **{"model": "mlp", "limit_train": None, "limit_test": None, "local_steps": 3},
        }
    ),
    "low communication": Case(
        {
            **{"optimizer": "adamw", "local_state": "keep", "lr": 0.001, "accumulate": 2, "server": "nesterov"},
            **{"lr_schedule": "cosine:warmup=3,floor=0.1", "uplink": "topk:0.1", "clients_per_round": 3},
        }
    ),
    "at once": Case({"model": f"{_USER_MODULE}:dense_model", "clients_at_once": 3, "uplink": "none"}),
    "resumed": Case(
        {"uplink": "topk:0.05", "downlink": "topk:0.1", "server": "fedadam", "clients_per_round": 2}, stop=2
    ),
    "resumed, masks": Case({"prune": "prunefl:0.7,every=2", "uplink": "topk:0.3+bf16"}, stop=3),
    "resumed, buffered": Case({"mode": "buffered:2", **_PROFILES, "uplink": "topk:0.1"}, stop=2),
    "2 ranks": Case({"uplink": "topk:0.05+log3+zstd", "downlink": "topk:0.1", **_BATCH_NORM}, ranks=2),
    "2 ranks, levels": Case(
        {"prune": "magnitude:0.1", "capabilities": "groups:1.0x1+0.5x3", "uplink": "topk:0.3"}, ranks=2
    ),
    "2 ranks, buffered": Case({"mode": "buffered:2", **_PROFILES, "uplink": "topk:0.1"}, ranks=2),
    "2 ranks, hook": Case({"exchange": "hook", "clients": 2, "uplink": "topk:0.1"}, ranks=2),
    "2 ranks, step": Case({"mode": "step", "clients": 2, "uplink": "topk:0.1", **_BATCH_NORM}, ranks=2),
}
_TIMES = ("time_s", "train_s", "exchange_s", "eval_s", "checkpoint_s", "seconds")
_UNKNOWN = "ConfigError: there is no option"  # what an older commit says of a newer feature
_ELSEWHERE = ("folder", "launcher", "device", "torch")  # of summary.json: where it ran


def main() -> int:
    """Make all runs twice and compare them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("old", help="commit to compare the working tree with")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="WORD", help="runs whose names hold one of these words"
    )
    given = parser.parse_args()
    cases = {name: case for name, case in CASES.items() if not given.only or any(word in name for word in given.only)}
    with tempfile.TemporaryDirectory() as scratch:
        there = Path(scratch)
        (there / f"{_USER_MODULE}.py").write_text(_USER_CODE)
        rows = [f"{i % 7},{(i * i) % 11},{(i % 7) * 0.5 - (i * i) % 11 * 0.1 + i % 3 * 0.01:.4f}" for i in range(300)]
        (there / "table.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")
        _git("worktree", "add", "--quiet", "--detach", str(there / "old-tree"), given.old)
        try:
            known = _options_of(there / "old-tree")
            as_old = {name: {**c.options, **(c.old if c.old.keys() <= known else {})} for name, c in cases.items()}
            processes = [
                _start(there / "old-tree", there, "old", as_old, cases),
                _start(ROOT, there, "new", {name: dict(case.options) for name, case in cases.items()}, cases),
            ]
            if sum(process.wait() != 0 for process in processes):
                return 2
        finally:
            _git("worktree", "remove", "--force", str(there / "old-tree"))
        return _report(there, list(cases))


def _git(*words: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *words], check=True)


def _options_of(tree: Path) -> set[str]:
    """The options that a tree declares; the module has moved."""
    module = next(path for path in (tree / "fl/common/config.py", tree / "fl/config.py") if path.exists())
    return set(re.findall(r"^    (\w+): .*= option\(", module.read_text(), flags=re.MULTILINE))


def _start(
    tree: Path, there: Path, side: str, options: dict[str, dict[str, Any]], cases: dict[str, Case]
) -> subprocess.Popen[bytes]:
    """Start the runs of one tree: a process that makes them one after another, in the order of `CASES`."""
    jobs = [
        {"name": name, "ranks": cases[name].ranks, "stop": cases[name].stop, "options": {**_BASE, **each}}
        for name, each in options.items()
    ]
    (there / f"{side}.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(Path(__file__).resolve().parent / "same_runs.py"), str(there / f"{side}.json"), side]
    path = os.pathsep.join([str(tree), str(there)])
    return subprocess.Popen(command, cwd=there, env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""})


def _report(there: Path, names: list[str]) -> int:
    differ, told = [], set()
    for name in names:
        found = list(_differences(there / "old" / name, there / "new" / name, told))
        print(f"{'DIFFERS' if found else 'same':8} {name}")
        for line in found[:8]:
            print(f"         {line}")
        differ += [name] if found else []
    for line in sorted(told):
        print(f"only in {line}")
    print(f"{len(names) - len(differ)} of {len(names)} runs are the same")
    return 1 if differ else 0


def _differences(old: Path, new: Path, told: set[str]) -> Iterator[str]:
    """What two run folders do not agree in; columns and files of one of them alone go to `told`."""
    files = [{path.name for path in folder.iterdir() if path.suffix in (".csv", ".json")} for folder in (old, new)]
    told |= {f"old: {name}" for name in files[0] - files[1]} | {f"new: {name}" for name in files[1] - files[0]}
    for file in sorted(files[0] & files[1] - {"config.json", "lock.json"}):
        before, after = (_cells(folder / file) for folder in (old, new))
        if str(before.get("error")).startswith(_UNKNOWN):
            told.add(f"new: {new.name}")
            return
        if ("error" in before) != ("error" in after):
            yield f"{file} error: {before.get('error')} -> {after.get('error')}"
        columns = [{key.rpartition(" ")[2] for key in cells} for cells in (before, after)]
        told |= {f"old: {file} {key}" for key in columns[0] - columns[1]}
        told |= {f"new: {file} {key}" for key in columns[1] - columns[0]}
        for key in sorted(before.keys() | after.keys()):
            one, other = before.get(key), after.get(key)
            if one != other and key.rpartition(" ")[2] in columns[0] & columns[1]:
                yield f"{file} {key}: {one} -> {other}"


def _cells(path: Path) -> dict[str, Any]:
    """The cells of a table by row and column, or the values of a JSON file, less times and places."""
    if path.suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {str(key): value for key, value in items if key not in (*_TIMES, *_ELSEWHERE, "error")} | (
            {"error": values["error"]} if isinstance(values, dict) and "error" in values else {}
        )
    with open(path, newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    return {f"row {at} {key}": cell for at, row in enumerate(table) for key, cell in row.items() if key not in _TIMES}


if __name__ == "__main__":
    sys.exit(main())
