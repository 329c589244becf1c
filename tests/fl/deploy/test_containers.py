"""docker/: what can be said of it without Docker. Oracles: the files that the commands of docs/deploy.md write, the
checkout, and nginx."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fl.deploy.__main__ import main as deploy
from fl.deploy.certificates import main as certificates
from tests.fl.deploy.front import NGINX
from tests.support import ROOT

x509 = pytest.importorskip("cryptography.x509", reason="pip install 'leanfed[flower]'")
tomllib = pytest.importorskip("tomllib", reason="Python 3.11 brings it")

DOCKER = ROOT / "docker"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
SITES = [name for name in SERVICES if name.startswith("site-")]
# In place of Flower's programs: tells what it was started with.
_PROGRAM = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\n"


def _shown() -> list[list[str]]:
    section = (ROOT / "docs" / "deploy.md").read_text().split("## In containers\n")[1].split("\n## ")[0]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block
    return [shlex.split(line) for line in block[1].splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder docker/ after the commands of docs/deploy.md that do not need Docker."""
    root = tmp_path_factory.mktemp("checkout")
    (root / "configs").symlink_to(ROOT / "configs")
    (root / "docker").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for words in _shown():
            if words[:2] == ["leanfed", "deploy"]:
                deploy(words[2:])
            elif words[:2] == ["leanfed", "certificates"]:
                certificates(words[2:])
            elif words[0] == "mkdir":
                Path(words[1]).mkdir()
    return root / "docker"


def _inside(name: str, folder: Path, inside: Path) -> None:
    """What the service's container sees below `inside`: exactly what is mounted. A file that is not there fails."""
    for mount in SERVICES[name]["volumes"]:
        source, target = re.sub(r"\$\{[^}]*\}", "DATA", mount).split(":")[:2]
        if source.startswith("./"):
            assert (folder / source).exists(), mount
            place = inside / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(folder / source)


def _started(name: str, folder: Path, tmp_path: Path) -> list[str]:
    """The words with which the service's command starts Flower's program."""
    _inside(name, folder, tmp_path / "inside")
    (tmp_path / "bin").mkdir()
    for program in ("flower-superlink", "flower-supernode"):
        (tmp_path / "bin" / program).write_text(_PROGRAM)
        (tmp_path / "bin" / program).chmod(0o755)
    words = [f"{tmp_path / 'inside'}{word}" if word.startswith("/") else word for word in SERVICES[name]["command"]]
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    ran = subprocess.run(words, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True)
    started: list[str] = json.loads(ran.stdout)
    return started


def test_the_server(folder: Path, tmp_path: Path) -> None:
    """The SuperLink finds its certificates, in the network of nginx, which alone has a port. Its own `flwr` finds it."""
    program, *words = _started("superlink", folder, tmp_path)
    assert Path(program).name == "flower-superlink"
    files = [Path(word) for word in words if word.startswith(str(tmp_path))]
    assert [file.name for file in files if not file.exists()] == ["superlink.db"]
    assert len(files) == 4
    (front,) = [name for name, service in SERVICES.items() if "ports" in service]
    assert SERVICES["superlink"]["network_mode"] == f"service:{front}"
    known = tomllib.loads((DOCKER / "flwr.toml").read_text())["superlink"]
    for words in _shown():
        if "flwr" in words:
            assert words[: words.index("flwr")] == ["docker", "compose", "exec", "superlink"]
            assert known.keys() & set(words) == {"server"}
    assert known["server"]["address"] == "localhost:9090"
    assert (tmp_path / "inside" / known["server"]["root-certificates"].lstrip("/")).exists()


@pytest.mark.parametrize("name", SITES)
def test_a_site(name: str, folder: Path, tmp_path: Path) -> None:
    """Each has the client of its name, the certificate of the authority and its own key, and calls the server by a name
    for which its certificate is."""
    program, *words = _started(name, folder, tmp_path)
    assert Path(program).name == "flower-supernode"
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert sorted(path.name for path in (tmp_path / "inside" / "keys").iterdir()) == ["ca.crt", f"{name}.key"]
    assert Path(given["--auth-supernode-private-key"]).name == f"{name}.key"
    assert all(Path(given[flag]).exists() for flag in ("--auth-supernode-private-key", "--root-certificates"))
    node = dict(pair.split("=") for pair in shlex.split(given["--node-config"]))
    targets = {mount.rsplit(":", 2 if mount.endswith(":ro") else 1)[1] for mount in SERVICES[name]["volumes"]}
    assert node == {"partition-id": name.removeprefix("site-"), "data-dir": "/data", "state-dir": "/state"}
    assert {"/data", "/state"} <= targets
    host, port = given["--superlink"].split(":")
    assert SERVICES[host]["ports"][0]["target"] == int(port)
    certificate = x509.load_pem_x509_certificate((folder / "keys" / "server.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in names.get_values_for_type(x509.DNSName)


def test_every_site_is_let_in() -> None:
    """The page registers each site, and there are as many clients and keys."""
    shown = _shown()
    registered = [(Path(words[7]).stem, words[-1]) for words in shown if "register" in words]
    assert registered == [(name, name) for name in SITES]
    assert [words[words.index("--clients") + 1] for words in shown if "deploy" in words] == [str(len(SITES))]
    assert [words[words.index("--sites") + 1] for words in shown if "certificates" in words] == [str(len(SITES))]


def test_nginx_reads_its_configuration(folder: Path, tmp_path: Path) -> None:
    """In a real nginx, with the command of its container."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    _inside("server", folder, tmp_path)
    program, *words = [
        f"{tmp_path}{word}" if word.startswith("/") else word for word in SERVICES["server"]["entrypoint"]
    ]
    assert program == "nginx"
    subprocess.run([NGINX, *words, "-t"], check=True)


def test_what_is_copied_into_the_image() -> None:
    """All is in the checkout and let in by .dockerignore; and every package of the program is among it."""
    lines = [line.split() for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    copied = [word for line in lines for word in line[1:-1] if not word.startswith("--")]
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {project["project"]["readme"], "constraints.txt"} <= set(copied)
