"""`leanfed certificates`. Oracle: the library's own verification, and openssl's formats."""

import stat
from pathlib import Path

import pytest

from fl.deploy.certificates import main

x509 = pytest.importorskip("cryptography.x509", reason="pip install 'leanfed[flower]'")


def _verify(folder: Path, subject: object) -> None:
    from cryptography.x509.verification import PolicyBuilder, Store

    authority, server = (
        x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes()) for name in ("ca", "server")
    )
    PolicyBuilder().store(Store([authority])).build_server_verifier(subject).verify(server, [])


def test_certificates(tmp_path: Path) -> None:
    """The server's is good for the names given and for its own machine, and for no other; keys are their owner's alone."""
    import ipaddress

    from cryptography.x509.verification import VerificationError

    folder = tmp_path / "keys"
    main([str(folder), "--host", "server.example.org", "10.0.0.1", "--sites", "2"])
    for host in ("server.example.org", "localhost"):
        _verify(folder, x509.DNSName(host))
    for address in ("10.0.0.1", "127.0.0.1", "::1"):
        _verify(folder, x509.IPAddress(ipaddress.ip_address(address)))
    with pytest.raises(VerificationError):
        _verify(folder, x509.DNSName("other.example.org"))
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("ca.crt", "ca.key", "server.crt", "server.key", "nginx.conf"),
        *(f"site-{site}.{kind}" for site in range(2) for kind in ("key", "pub")),
    }
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.glob("*.key"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--days", "0"], "--days 0 must be between 1 and 825"),
        (["--sites", "-1"], "--sites -1 must be at least 0"),
        (["--host", "münchen"], "--host münchen must be a name of the server"),
        (["--lifetime", "3"], "unrecognized arguments: --lifetime 3"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "keys"), *words])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ca.key").write_text("mine")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "ca.key is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["ca.key"]
