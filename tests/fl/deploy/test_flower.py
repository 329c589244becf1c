"""Runs across sites on Flower's engine, encrypted and authenticated. Oracle: the same run in one process."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fl.deploy.__main__ import main
from fl.deploy.certificates import write_certificates
from tests.fl.deploy.front import nginx
from tests.fl.deploy.test_sites import OWN, TABLE, Here, Own, write_tables
from tests.fl.deploy.test_timed import Arriving, Stopped
from tests.support import QUICK, ROOT, TIMES, rows, run_here

pytest.importorskip("flwr", reason="pip install 'leanfed[flower]'")
pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {
    **{"clients": 4, "rounds": 2, "limit_train": 120, "local_steps": 2, "batch_size": 16},
    **{"uplink": "topk:0.05+log3+zstd", "downlink": "topk:0.1"},
}
_BIN = Path(sys.executable).parent


class Programs:
    """Flower's programs, each with a log of its own in one folder; all are ended with the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = {
            **os.environ,
            "FLWR_HOME": str(folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{_BIN}:{os.environ['PATH']}",
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str | Path) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                list(map(str, words)),
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running[name] = process

    def kill(self, name: str) -> None:
        """End a program and all that it has started, without a word."""
        process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)

    def do(self, *words: str | Path) -> None:
        subprocess.run(list(map(str, words)), cwd=self.folder, env=self._environment, check=True, capture_output=True)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_until(self, true: Callable[[], object]) -> None:
        ends = time.monotonic() + 400
        while not true():
            logs = {path.name: path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log")}
            assert time.monotonic() < ends, logs
            time.sleep(0.2)

    def end(self) -> None:
        for process in reversed(self._running.values()):
            process.terminate()
        for process in self._running.values():
            process.wait(60)
            with contextlib.suppress(ProcessLookupError):  # what it has left behind
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path)
    try:
        yield started
    finally:
        started.end()


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def _write_app(folder: Path, **options: Any) -> None:
    given = {**QUICK, **OPTIONS, "output_dir": str(folder), "run_name": "there", **options}
    words = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in given.items()
        if not isinstance(value, (bool, type(None)))
    ]
    main([*words, "--quiet", str(folder / "app")])


def _start_server(programs: Programs, port: int, keys: Path, name: str = "link") -> None:
    folder = programs.folder
    programs.start(name, folder / "app" / "superlink.sh", keys, "--port", str(port))
    (folder / "config.toml").write_text(
        f'[superlink.trial]\naddress = "localhost:{port}"\nroot-certificates = "{keys / "ca.crt"}"\n'
    )
    programs.wait_until(lambda: "running on" in programs.log(name))


def test_same_bits_and_for_no_others(tmp_path: Path, programs: Programs) -> None:
    """A SuperLink and four SuperNodes: the same model, metrics and payload bytes, and the sites have the model. A
    SuperNode whose key is not registered, one without a key, and one that does not encrypt get nothing."""
    run_here(tmp_path, "here", **OPTIONS)
    _write_app(tmp_path)
    keys = tmp_path / "keys"
    write_certificates(keys, [], 6, 1)
    link, *own = _ports(9)
    _start_server(programs, link, keys)
    state = f'state-dir="{tmp_path}/sites-'
    for site in (0, 1, 2, 3, 5):
        programs.do("flwr", "supernode", "register", keys / f"site-{site}.pub", "trial", "--name", f"site-{site}")
    for client in range(4):
        words = (str(client), f'{state}own"', "--port", str(own[client]))
        programs.start(f"node-{client}", tmp_path / "app" / "supernode.sh", keys, f"localhost:{link}", *words)
    node = ("flower-supernode", "--superlink", f"localhost:{link}", "--node-config", f'partition-id=0 {state}other"')
    trust = ("--root-certificates", keys / "ca.crt")
    others = {
        "unregistered": (*trust, "--auth-supernode-private-key", keys / "site-4.key"),
        "keyless": trust,
        "plain": ("--insecure",),
        "another": (*trust, "--auth-supernode-private-key", keys / "site-5.key"),
    }
    for (name, words), port in zip(others.items(), own[4:], strict=True):
        programs.start(name, *node, *words, "--port", str(port))
    programs.start("run", "flwr", "run", tmp_path / "app", "trial", "--stream")
    programs.wait_until((tmp_path / "there" / "summary.json").exists)
    programs.wait_until(lambda: len(list(tmp_path.glob("sites-own/*/client-*/final_model.safetensors"))) == 4)
    model = (tmp_path / "here" / "final_model.safetensors").read_bytes()
    for other in (tmp_path / "there", *tmp_path.glob("sites-own/*/*")):
        assert (other / "final_model.safetensors").read_bytes() == model
    for table, other_than in (("metrics", (*TIMES, "engine_bytes")), ("clients", TIMES)):
        assert rows(tmp_path / "there", table, other_than) == rows(tmp_path / "here", table, other_than)
    assert all(0 < int(row["engine_bytes"]) < 20_000 for row in rows(tmp_path / "there"))
    assert "Receiving" in programs.log("node-0")
    assert "Receiving: query" in programs.log("another")
    for name in others:
        assert "Receiving: train" not in programs.log(name)
    for name in ("unregistered", "keyless", "plain"):
        assert "Receiving" not in programs.log(name)
    assert not (tmp_path / "sites-other").exists()


def test_sites_with_data_of_their_own(tmp_path: Path, programs: Programs) -> None:
    """Each SuperNode has a table of its own. Oracle: the same sites without Flower."""
    write_tables(tmp_path, {"server": 60, "site-0": 30, "site-1": 50})
    options = {**OPTIONS, **OWN, "dataset": f"csv:{tmp_path}/server/{TABLE}"}
    here = Own(tmp_path, options).run("here")
    _write_app(tmp_path, **options)
    keys = tmp_path / "keys"
    write_certificates(keys, [], 2, 1)
    link, *own = _ports(3)
    _start_server(programs, link, keys)
    for client in range(2):
        programs.do("flwr", "supernode", "register", keys / f"site-{client}.pub", "trial")
        folders = f'state-dir="{tmp_path}/sites" data-dir="{tmp_path}/site-{client}"'
        words = (str(client), f'{folders} dataset="csv:{TABLE}"', "--port", str(own[client]))
        programs.start(f"node-{client}", tmp_path / "app" / "supernode.sh", keys, f"localhost:{link}", *words)
    programs.do("flwr", "run", tmp_path / "app", "trial")
    programs.wait_until((tmp_path / "there" / "summary.json").exists)
    assert json.loads((tmp_path / "there" / "summary.json").read_text())["model_sha256"] == here["model_sha256"]


def test_a_server_that_is_killed(tmp_path: Path, programs: Programs) -> None:
    """SuperLink and server are killed after a round, and both start again: the sites come back by themselves, and the run
    goes on from its checkpoint with their residuals. Oracle: the model of a run that was not interrupted."""
    options = {"clients": 2, "rounds": 3}
    run_here(tmp_path, "here", **{**OPTIONS, **options})
    _write_app(tmp_path, **options, resume="auto")
    keys = tmp_path / "keys"
    write_certificates(keys, [], 2, 1)
    link, *own = _ports(3)
    _start_server(programs, link, keys)
    for client in range(2):
        programs.do("flwr", "supernode", "register", keys / f"site-{client}.pub", "trial")
        words = (str(client), f'state-dir="{tmp_path}/sites"', "--port", str(own[client]))
        programs.start(f"node-{client}", tmp_path / "app" / "supernode.sh", keys, f"localhost:{link}", *words)
    programs.do("flwr", "run", tmp_path / "app", "trial")
    saved = tmp_path / "there" / "checkpoints" / "manifest-000001.json"
    programs.wait_until(saved.exists)
    programs.kill("link")
    _start_server(programs, link, keys, "link-again")
    programs.do("flwr", "run", tmp_path / "app", "trial")
    programs.wait_until((tmp_path / "there" / "summary.json").exists)
    assert "continues at round" in (tmp_path / "there" / "run.log").read_text()
    models = [(tmp_path / name / "final_model.safetensors").read_bytes() for name in ("here", "there")]
    assert models[0] == models[1]


def test_buffered_rounds(tmp_path: Path, programs: Programs) -> None:
    """Updates count as they come; SuperLink and server are killed on the way, and go on. Oracle: sites in this process
    whose answers come in the same order, and a server that is gone after the same round."""
    options: dict[str, Any] = {**OPTIONS, "clients": 3, "rounds": 5, "mode": "buffered:2", "staleness": "poly:0.5"}
    _write_app(tmp_path, **options, resume="auto")
    keys = tmp_path / "keys"
    write_certificates(keys, [], 3, 1)
    link, *own = _ports(4)
    _start_server(programs, link, keys)
    for client in range(3):
        programs.do("flwr", "supernode", "register", keys / f"site-{client}.pub", "trial")
        words = (str(client), f'state-dir="{tmp_path}/sites"', "--port", str(own[client]))
        programs.start(f"node-{client}", tmp_path / "app" / "supernode.sh", keys, f"localhost:{link}", *words)
    programs.do("flwr", "run", tmp_path / "app", "trial")
    programs.wait_until((tmp_path / "there" / "checkpoints" / "manifest-000002.json").exists)
    programs.kill("link")
    _start_server(programs, link, keys, "link-again")
    programs.do("flwr", "run", tmp_path / "app", "trial")
    programs.wait_until((tmp_path / "there" / "summary.json").exists)
    went_on = re.search("continues at round ([0-9]+)", (tmp_path / "there" / "run.log").read_text())
    assert went_on is not None
    counted = [row for row in rows(tmp_path / "there", "clients") if row["samples"] != "0"]
    before, after = (
        [int(row["client"]) for row in counted if (int(row["round"]) < int(went_on[1])) == is_before]
        for is_before in (True, False)
    )
    with pytest.raises(RuntimeError, match="power is gone"):
        Stopped(tmp_path / "alike", options, before).run("here")
    here = Arriving(tmp_path / "alike", options, after).run("here", resume="auto")
    assert here["model_sha256"] == json.loads((tmp_path / "there" / "summary.json").read_text())["model_sha256"]


@pytest.mark.parametrize("disk", ["kept", "lost"])
def test_a_site_that_is_killed(tmp_path: Path, programs: Programs, disk: str) -> None:
    """A SuperNode is killed while it trains: the round goes on without it, and when it is started again it takes part, with
    its residual or without one. Oracle: a run in one process in which the same updates count."""
    options = {**OPTIONS, "clients": 2, "rounds": 6, "min_clients": 1}
    _write_app(tmp_path, **options)
    keys = tmp_path / "keys"
    write_certificates(keys, [], 2, 1)
    link, *own = _ports(3)
    _start_server(programs, link, keys)

    def start(client: int, name: str) -> None:
        words = (str(client), f'state-dir="{tmp_path}/sites-{client}"', "--port", str(own[client]))
        programs.start(name, tmp_path / "app" / "supernode.sh", keys, f"localhost:{link}", *words)

    for client in range(2):
        programs.do("flwr", "supernode", "register", keys / f"site-{client}.pub", "trial")
        start(client, f"node-{client}")
    programs.do("flwr", "run", tmp_path / "app", "trial")
    programs.wait_until(lambda: programs.log("node-1").count("Receiving: train") == 2)
    programs.kill("node-1")
    if disk == "lost":
        shutil.rmtree(tmp_path / "sites-1")
    log = tmp_path / "there" / "run.log"
    programs.wait_until(lambda: "goes on without client 1 on rank 0: its SuperNode failed" in log.read_text())
    start(1, "node-1-again")
    programs.wait_until((tmp_path / "there" / "summary.json").exists)
    counted = {
        (int(row["round"]), int(row["client"])) for row in rows(tmp_path / "there", "clients") if row["samples"] != "0"
    }
    assert {(0, 1), (5, 1)} < counted
    assert (1, 1) not in counted

    class Alike(Here):
        """Who was away is not asked."""

        number = -1

        def connected(self, clients: Sequence[int], least: int) -> list[int]:
            self.number += 1
            found = [client for client in clients if (self.number, client) in counted]
            if disk == "lost" and 1 not in found:
                shutil.rmtree(self.folder / "site-1", ignore_errors=True)
            return found

    here = Alike(tmp_path / "alike", options).run("here")
    assert here["model_sha256"] == json.loads((tmp_path / "there" / "summary.json").read_text())["model_sha256"]


def test_a_site_that_is_late(tmp_path: Path, programs: Programs) -> None:
    """A SuperNode does not come to an end with its first job: with a deadline the run does without it. Oracle: the run in
    one process in which it is away."""
    options = {**OPTIONS, "clients": 2, "min_clients": 1, "dataset": "tests.user_code:digits_once_there_is_a_file"}
    for name in ("server", "site-0", "site-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "go").write_text("")
    (tmp_path / "site-1" / "go").unlink()
    options["data_dir"] = str(tmp_path / "server")
    _write_app(tmp_path, **options, deadline=0.1)
    keys = tmp_path / "keys"
    write_certificates(keys, [], 2, 1)
    link, *own = _ports(3)
    _start_server(programs, link, keys)
    for client in range(2):
        programs.do("flwr", "supernode", "register", keys / f"site-{client}.pub", "trial")
        folders = f'state-dir="{tmp_path}/sites" data-dir="{tmp_path}/site-{client}"'
        words = (str(client), folders, "--port", str(own[client]))
        programs.start(f"node-{client}", tmp_path / "app" / "supernode.sh", keys, f"localhost:{link}", *words)
    programs.do("flwr", "run", tmp_path / "app", "trial")
    programs.wait_until((tmp_path / "there" / "summary.json").exists)

    class Alone(Here):
        def connected(self, clients: Sequence[int], least: int) -> list[int]:
            return [0]

    here = Alone(tmp_path / "alone", options).run("here")
    assert here["model_sha256"] == json.loads((tmp_path / "there" / "summary.json").read_text())["model_sha256"]
    late = [row for row in rows(tmp_path / "there", "clients") if row["client"] == "1"]
    assert [(row["round"], row["samples"], row["uplink_bytes"]) for row in late] == [("0", "0", "0")]


@pytest.mark.parametrize("days", [0, 1])
def test_an_expired_certificate(tmp_path: Path, programs: Programs, days: int) -> None:
    """A site talks to a server whose certificate is valid, and not to the same one whose certificate has expired."""
    keys = tmp_path / "keys"
    write_certificates(keys, [], 0, days)
    link, own = _ports(2)
    files = {"ca-certfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
    words = [word for name, file in files.items() for word in (f"--ssl-{name}", keys / file)]
    programs.start("link", "flower-superlink", *words, "--host", "127.0.0.1", "--port", str(link))
    programs.wait_until(lambda: "running on" in programs.log("link"))
    node = ("flower-supernode", "--superlink", f"localhost:{link}", "--root-certificates", keys / "ca.crt")
    programs.start("node", *node, "--port", str(own))
    if days:
        programs.wait_until(lambda: "Activated node_id" in programs.log("link"))
    else:
        programs.wait_until(lambda: programs.log("node").count("Connection attempt failed") > 2)
        assert "Activated node_id" not in programs.log("link")


def test_through_nginx(tmp_path: Path, programs: Programs) -> None:
    """A SuperNode gets in through nginx. There nobody can ask for what starts runs and lets sites in, who can at the
    SuperLink's own port."""
    keys = tmp_path / "keys"
    write_certificates(keys, [], 1, 1)
    link, front, own = _ports(3)
    _write_app(tmp_path)
    _start_server(programs, link, keys)
    with open(tmp_path / "config.toml", "a") as file:
        file.write(f'[superlink.front]\naddress = "localhost:{front}"\nroot-certificates = "{keys / "ca.crt"}"\n')
    with nginx(keys, front, link):
        register = ("flwr", "supernode", "register", keys / "site-0.pub")
        with pytest.raises(subprocess.CalledProcessError) as refused:
            programs.do(*register, "front")
        assert b"403" in refused.value.stdout + refused.value.stderr
        programs.do(*register, "trial")
        words = ("0", f'state-dir="{tmp_path}/sites"', "--port", str(own))
        programs.start("node", tmp_path / "app" / "supernode.sh", keys, f"localhost:{front}", *words)
        programs.wait_until(lambda: "Activated node_id" in programs.log("link"))
