"""Some machines on one switch, made of Linux network namespaces, with links of limited speed between them.

Every machine is a namespace with one interface, `cable`, 10.78.0.(rank + 1), whose other end, `port<rank>`, is on a bridge
in a namespace of its own. Both ends of every cable go through a token bucket (`tc tbf`), so each link has the same speed
both ways, and what several machines send to one shares that one's link. Needs root, `ip` and `tc`.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "cable"
_BURST_S = 0.00025  # what may pass at once: a quarter of a millisecond's bytes, so that small payloads are limited too
_LEAST_BURST = 3200  # two Ethernet frames


def why_not() -> str | None:
    """Why real links cannot be made here, in words; None if they can."""
    if os.geteuid() != 0:
        return "this is not root"
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        return f"the command {' and '.join(missing)} is missing (on Debian: apt-get install iproute2)"
    return None


@dataclass(frozen=True)
class Network:
    """`ranks` machines; `tag` is what the names of their namespaces begin with."""

    tag: str
    ranks: int

    def machine(self, rank: int) -> str:
        """The namespace of a rank."""
        return f"{self.tag}-{rank}"

    @property
    def switch(self) -> str:
        """The namespace of the bridge."""
        return f"{self.tag}-switch"

    @staticmethod
    def address(rank: int) -> str:
        """The address of a rank's machine."""
        return f"10.78.0.{rank + 1}"

    def inside(self, rank: int, command: Sequence[str]) -> list[str]:
        """`command`, to be started on the machine of a rank."""
        return ["ip", "netns", "exec", self.machine(rank), *command]

    def limit(self, mbit: float) -> None:
        """From now on every link carries `mbit` (10^6 bits/s, Ethernet headers included) each way, and no more."""
        burst = max(_LEAST_BURST, round(mbit * 1e6 / 8 * _BURST_S))
        bucket = f"root tbf rate {round(mbit * 1e6)}bit burst {burst} latency 500ms".split()
        for rank in range(self.ranks):
            _run("tc", "-n", self.machine(rank), "qdisc", "replace", "dev", INTERFACE, *bucket)
            _run("tc", "-n", self.switch, "qdisc", "replace", "dev", f"port{rank}", *bucket)


@contextmanager
def network(ranks: int) -> Iterator[Network]:
    """A network of so many machines, without limits yet; gone at the end, however this block ends.

    RuntimeError if the kernel refuses.
    """
    made = Network(f"leanfed-links-{os.getpid()}", ranks)
    try:
        _run("ip", "netns", "add", made.switch)
        _run("ip", "-n", made.switch, "link", "add", "switch", "type", "bridge")
        _run("ip", "-n", made.switch, "link", "set", "switch", "up")
        for rank in range(ranks):
            here, port = made.machine(rank), f"port{rank}"
            _run("ip", "netns", "add", here)
            _run(*f"ip link add {INTERFACE} netns {here} type veth peer name {port} netns {made.switch}".split())
            _run("ip", "-n", made.switch, "link", "set", port, "master", "switch", "up")
            _run("ip", "-n", here, "address", "add", f"{made.address(rank)}/24", "dev", INTERFACE)
            _run("ip", "-n", here, "link", "set", INTERFACE, "up")
            _run("ip", "-n", here, "link", "set", "lo", "up")
        yield made
    finally:
        for name in (made.switch, *map(made.machine, range(ranks))):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=20)


def counters() -> tuple[int, int]:
    """Bytes that have gone out of and come into this machine's cable, as the kernel counts them: (tx, rx)."""
    folder = Path("/sys/class/net", INTERFACE, "statistics")
    return int((folder / "tx_bytes").read_text()), int((folder / "rx_bytes").read_text())


def _run(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=20)
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"'{' '.join(words)}' failed: {error.stderr.strip()}") from None
