"""nginx as `leanfed certificates` configures it, on ports of the test's own."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def nginx(keys: Path, port: int, superlink: int) -> Iterator[None]:
    """It listens at `port`, in front of a SuperLink at `superlink`; without nginx the test is skipped."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    conf = (keys / "nginx.conf").read_text()
    assert (conf.count(" 9443 "), conf.count(":9090")) == (1, 1)
    (keys / "nginx.conf").write_text(conf.replace(" 9443 ", f" {port} ").replace(":9090", f":{superlink}"))
    # As root it would make its workers another user, who cannot look into the folder of a test.
    user = " user root;" if os.geteuid() == 0 else ""
    process = subprocess.Popen([NGINX, "-p", keys, "-c", "nginx.conf", "-g", f"daemon off;{user}"])
    try:
        ends = time.monotonic() + 60
        while True:
            assert process.poll() is None, "nginx has ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < ends
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(60)
