"""Two machines, as two network namespaces joined by a cable. Oracle: the kernel's interface counters."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, environment, flags, kill_tree, rows

_PORT = "29411"


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """The names of two namespaces, 10.77.0.1 and 10.77.0.2 on interfaces `cable0` and `cable1`; gone afterwards.

    Skipped where namespaces cannot be made, which needs root and `ip`; where LEANFED_REQUIRE_DATA=1 says that a skip is
    a failure, root must be able to.
    """
    tag = uuid.uuid4().hex[:6]
    names = [f"leanfed-{tag}-{side}" for side in (0, 1)]
    reason = None
    if os.geteuid() != 0 or shutil.which("ip") is None:
        reason = "two network namespaces need root and the command `ip`"
    try:
        if reason is None:
            try:
                for name in names:
                    _ip("netns", "add", name)
                _ip(*f"link add cable0 netns {names[0]} type veth peer name cable1 netns {names[1]}".split())
            except subprocess.CalledProcessError as error:
                reason = f"network namespaces cannot be made here: {error.stderr.strip()}"
        if reason is not None:
            if os.environ.get("LEANFED_REQUIRE_DATA") == "1" and os.geteuid() == 0:
                pytest.fail(reason)
            pytest.skip(reason)
        for side, name in enumerate(names):
            _ip("-n", name, "address", "add", f"10.77.0.{side + 1}/24", "dev", f"cable{side}")
            _ip("-n", name, "link", "set", f"cable{side}", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        if shutil.which("ip") is not None:
            for name in names:
                subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=20)


def _counters(name: str, interface: str) -> dict[str, int]:
    """Bytes that have gone out of (tx) and come into (rx) the interface, as the kernel counts them."""
    (link,) = json.loads(_ip("-n", name, "-s", "-j", "link", "show", "dev", interface))
    return {way: link["stats64"][way]["bytes"] for way in ("rx", "tx")}


def _start(names: list[str], side: int, options: list[str], log: Path) -> subprocess.Popen[bytes]:
    launcher = [
        *("torchrun", "--nnodes", "2", "--nproc_per_node", "1", "--node_rank", str(side)),
        *("--master_addr", "10.77.0.1", "--master_port", _PORT),
    ]
    own = {**environment(), "GLOO_SOCKET_IFNAME": f"cable{side}"}
    with open(log, "wb") as file:
        command = ["ip", "netns", "exec", names[side], *launcher, "main.py", *options]
        return subprocess.Popen(command, cwd=ROOT, env=own, stdout=file, stderr=subprocess.STDOUT)


def _run(names: list[str], folder: Path, **options: Any) -> None:
    """One run across both namespaces, which must end."""
    words = flags(output_dir=folder, run_name="run", **options)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for side in (0, 1):
            processes.append(_start(names, side, words, folder / f"machine{side}.log"))
        for side, process in enumerate(processes):
            status = process.wait(timeout=240)
            assert status == 0, (folder / f"machine{side}.log").read_text()[-3000:]
    finally:
        for process in processes:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()


def test_the_ledger_equals_the_interface_counters(machines: list[str], tmp_path: Path) -> None:
    """torchrun across two machines with one client each: what client 1 sends and receives, within 2 %.

    ResNet-18 without compression, so that payloads (45 MB) outweigh what the launchers and TCP add: three downloads
    and two uploads.
    """
    _run(
        machines,
        tmp_path,
        dataset="tests.user_code:few_digits",
        model="resnet18",
        uplink="none",
        rounds=2,
        clients=2,
        limit_train=24,
        local_steps=1,
        batch_size=4,
        eval_every=2,
        checkpoint_every=0,
    )
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["world_size"], summary["launcher"]) == (2, "torchrun")
    clients = [row for row in rows(tmp_path / "run", "clients") if row["client"] == "1"]
    assert [row["rank"] for row in clients] == ["1", "1"]
    sent = sum(int(row["uplink_bytes"]) for row in clients)
    received = sum(int(row["downlink_bytes"]) for row in clients)
    assert sent > 2 * 44_000_000
    assert received > 3 * 44_000_000
    near, far = _counters(machines[0], "cable0"), _counters(machines[1], "cable1")
    assert far["tx"] == pytest.approx(sent, rel=0.02)
    assert far["rx"] == pytest.approx(received, rel=0.02)
    assert (near["rx"], near["tx"]) == (far["tx"], far["rx"]), "both ends of one cable"
