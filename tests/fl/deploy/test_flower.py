"""Runs across sites on Flower's engine. Oracle: the same run in one process."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl.deploy.__main__ import main
from tests.support import QUICK, ROOT, TIMES, rows, run_here

flwr = pytest.importorskip("flwr", reason="pip install 'leanfed[flower]'")
pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {
    **{"clients": 2, "rounds": 3, "limit_train": 120, "local_steps": 2, "batch_size": 16},
    **{"uplink": "topk:0.05+log3+zstd", "downlink": "topk:0.1"},
}


@contextlib.contextmanager
def _running(log: Path, program: str, *words: str) -> Iterator[None]:
    """A program of Flower's, ended with the block."""
    environment = {**os.environ, "FLWR_HOME": str(log.parent), "FLWR_TELEMETRY_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *words],
            cwd=log.parent,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _wait_for(path: Path, log: Path) -> None:
    ends = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < ends, log.read_text()
        assert "error: " not in log.read_text(), log.read_text()
        time.sleep(0.2)


def test_same_bits(tmp_path: Path) -> None:
    """A SuperLink and two SuperNodes: the same model, metrics and payload bytes; and the sites have the model."""
    run_here(tmp_path, "here", **OPTIONS)
    given = {**QUICK, **OPTIONS, "output_dir": str(tmp_path), "run_name": "there", "figures": False}
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if not isinstance(value, bool)]
    main([*words, "--quiet", str(tmp_path / "app")])
    link, *nodes = _ports(3)
    (tmp_path / "config.toml").write_text(f'[superlink.trial]\naddress = "127.0.0.1:{link}"\ninsecure = true\n')
    with contextlib.ExitStack() as running:

        def start(log: str, program: str, *words: str) -> Path:
            running.enter_context(_running(tmp_path / log, program, *words))
            return tmp_path / log

        here = ("--insecure", "--host", "127.0.0.1", "--port")
        server = start("link.log", "flower-superlink", *here, str(link), "--disable-runtime-dependency-installation")
        for client, port in enumerate(nodes):
            node = f'partition-id={client} state-dir="{tmp_path / "sites"}"'
            start(
                *(f"node-{client}.log", "flower-supernode", "--superlink", f"127.0.0.1:{link}", *here, str(port)),
                *("--node-config", node),
            )
        while "running on" not in server.read_text():
            time.sleep(0.2)
        log = start("run.log", "flwr", "run", str(tmp_path / "app"), "trial", "--stream")
        _wait_for(tmp_path / "there" / "summary.json", log)
        for client in range(2):
            while not list(tmp_path.glob(f"sites/*/client-{client}/final_model.safetensors")):
                time.sleep(0.2)
    model = (tmp_path / "here" / "final_model.safetensors").read_bytes()
    for other in (tmp_path / "there" / "final_model.safetensors", *tmp_path.glob("sites/*/*/final_model.safetensors")):
        assert other.read_bytes() == model
    for table, other_than in (("metrics", (*TIMES, "engine_bytes")), ("clients", TIMES)):
        assert rows(tmp_path / "there", table, other_than) == rows(tmp_path / "here", table, other_than)
    assert all(0 < int(row["engine_bytes"]) < 10_000 for row in rows(tmp_path / "there"))
