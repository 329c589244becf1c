"""The nginx.conf of `leanfed certificates`, in a real nginx. Oracle: what a server behind it has seen."""

import http.client
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fl.deploy.certificates import write_certificates
from tests.fl.deploy.front import nginx
from tests.support import free_port

pytest.importorskip("cryptography.x509", reason="pip install 'leanfed[flower]'")


class SuperLink(ThreadingHTTPServer):
    """Notes each path that it is asked for, and sends the body back."""

    def __init__(self, keys: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Echo)
        self.seen: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(keys / "server.crt", keys / "server.key")
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: object) -> None:
        """A handshake that nginx has broken off."""


class _Echo(BaseHTTPRequestHandler):
    server: SuperLink

    def do_POST(self) -> None:
        self.server.seen.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def _serve(keys: Path) -> Iterator[SuperLink]:
    with SuperLink(keys) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    write_certificates(tmp_path / "keys", [], 0, 1)
    return tmp_path / "keys"


@pytest.fixture
def superlink(keys: Path) -> Iterator[SuperLink]:
    yield from _serve(keys)


def _ask(keys: Path, port: int, path: str, body: bytes = b"") -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=keys / "ca.crt")
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=60)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_what_sites_reach(keys: Path, superlink: SuperLink) -> None:
    """Flower's fleet paths, with payloads of any size, and nothing else, however a path is written: the server behind sees
    none that does not begin with /v1/fleet/."""
    port = free_port()
    with nginx(keys, port, superlink.server_port):
        payload = bytes(range(256)) * 20_000
        assert _ask(keys, port, "/v1/fleet/push-messages", payload) == (200, payload)
        assert superlink.seen == ["/v1/fleet/push-messages"]
        refused = (
            "/",
            "/v1/control/start-run",
            "/v1/fleet",
            "/v1/fleet/../control/start-run",
            "/V1/FLEET/pull-messages",
        )
        for path in (
            *refused,
            "/v1/fleet/%2e%2e/control/start-run",
            "/v1/fleet/..%2fcontrol/start-run",
            "//v1/control/x",
        ):
            assert _ask(keys, port, path)[0] in (301, 403), path
        assert superlink.seen == ["/v1/fleet/push-messages"]
        for path in ("/v1/control/../fleet/x", "/v1/control/start-run%2f..%2f..%2ffleet/x", "//v1//fleet//x"):
            assert _ask(keys, port, path)[0] == 200, path
        assert superlink.seen[1:] == ["/v1/fleet/x"] * 3


def test_a_server_behind_it_with_another_certificate(keys: Path, tmp_path: Path) -> None:
    """nginx hands nothing on to a program that cannot show the SuperLink's certificate."""
    write_certificates(tmp_path / "others", [], 0, 1)
    port = free_port()
    for other in _serve(tmp_path / "others"):
        with nginx(keys, port, other.server_port):
            assert _ask(keys, port, "/v1/fleet/pull-messages")[0] == 502
        assert other.seen == []


def test_without_encryption(keys: Path, superlink: SuperLink) -> None:
    """A site that does not encrypt is refused."""
    port = free_port()
    with nginx(keys, port, superlink.server_port):
        connection = http.client.HTTPConnection("localhost", port, timeout=60)
        connection.request("POST", "/v1/fleet/pull-messages", b"")
        assert connection.getresponse().status == 400
    assert superlink.seen == []
