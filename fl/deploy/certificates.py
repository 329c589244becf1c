"""`leanfed certificates FOLDER`: certificates and keys for a trial, or for sites that have no authority of their own."""

import argparse
import datetime
import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl.common.errors import ConfigError
from fl.common.paths import expanded
from fl.common.terminal import Parser, end_with_mistake, lasting_output, say

_MOST_DAYS = 825  # what programs accept of a server
_AUTHORITY = "LeanFed authority"
_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
_OWN = ("localhost", "127.0.0.1", "::1")
_NGINX = """\
# Start it in this folder: nginx -p "$PWD" -c nginx.conf. It hands on what sites may reach of Flower's SuperLink, which is at
# port 9090 of this machine alone; the rest of that starts runs and lets sites in, and asks nobody who they are.
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path temp;
    proxy_temp_path temp;
    fastcgi_temp_path temp;
    uwsgi_temp_path temp;
    scgi_temp_path temp;
    server {
        listen 9443 ssl;
        ssl_certificate server.crt;
        ssl_certificate_key server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        client_max_body_size 0;
        location /v1/fleet/ {
            proxy_pass https://127.0.0.1:9090/v1/fleet/;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate ca.crt;
            proxy_ssl_name localhost;
            proxy_read_timeout 1h;
        }
        location / {
            return 403;
        }
    }
}
"""


def write_certificates(folder: Path, hosts: Sequence[str], sites: int, days: int) -> None:
    """Write to `folder`, which is made: ca.crt, which each site gets, and ca.key; server.crt, valid for these names and
    addresses of the server and for this machine's own, and server.key; for each site N site-N.key, which it keeps, and
    site-N.pub, by which the server knows it; and nginx.conf, which lets sites in. Keys are on the curve P-384, their files
    the user's alone. ConfigError if a file is there already, or without the library.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError:
        raise ConfigError(
            "leanfed certificates needs the library cryptography: pip install 'leanfed[flower]'"
        ) from None

    now = datetime.datetime.now(datetime.timezone.utc)

    def new_key() -> ec.EllipticCurvePrivateKey:
        return ec.generate_private_key(ec.SECP384R1())

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, *extensions: tuple[Any, bool]) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named(_AUTHORITY))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(authority, hashes.SHA384())

    def usage(**uses: bool) -> tuple[x509.KeyUsage, bool]:
        return x509.KeyUsage(**{**dict.fromkeys(_USES, False), **uses}), True

    def private(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
        return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())

    authority, server = new_key(), new_key()
    files = {
        "ca.key": private(authority, serialization.PrivateFormat.PKCS8),
        "ca.crt": certificate(
            _AUTHORITY,
            authority,
            (x509.BasicConstraints(ca=True, path_length=0), True),
            usage(key_cert_sign=True, crl_sign=True),
        ).public_bytes(serialization.Encoding.PEM),
        "server.key": private(server, serialization.PrivateFormat.PKCS8),
        "server.crt": certificate(
            "LeanFed server",
            server,
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys([*hosts, *_OWN])]), False),
            usage(digital_signature=True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        ).public_bytes(serialization.Encoding.PEM),
    }
    files["nginx.conf"] = _NGINX.encode()
    for site in range(sites):
        key = new_key()
        files[f"site-{site}.key"] = private(key, serialization.PrivateFormat.OpenSSH)
        openssh = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        files[f"site-{site}.pub"] = key.public_key().public_bytes(*openssh) + b"\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} is there already: choose another folder, or delete it")
    for name, data in files.items():
        (folder / name).touch(0o600 if name.endswith(".key") else 0o644)
        (folder / name).write_bytes(data)


def _general_name(host: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise ConfigError(f"--host {host} must be a name of the server, in ASCII, or an address") from None


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = Parser(prog="leanfed certificates", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", metavar="FOLDER", type=expanded, help="where to write them")
    parser.add_argument(
        "--host",
        nargs="+",
        default=[],
        help="names and addresses by which sites reach the server, besides this machine's own",
    )
    parser.add_argument("--sites", type=int, default=4, help="how many sites get a key (default: 4)")
    parser.add_argument("--days", type=int, default=90, help="how long the certificates are valid (default: 90)")
    return parser


@lasting_output()
def main(argv: Sequence[str] | None = None) -> None:
    """The program: write the files, say what each is for."""
    try:
        options = make_parser().parse_args(sys.argv[1:] if argv is None else argv)
        folder: Path = options.folder
        if not 1 <= options.days <= _MOST_DAYS:
            raise ConfigError(f"--days {options.days} must be between 1 and {_MOST_DAYS}")
        if options.sites < 0:
            raise ConfigError(f"--sites {options.sites} must be at least 0")
        write_certificates(folder, options.host, options.sites, options.days)
    except OSError as error:
        end_with_mistake(ConfigError(f"{error.filename} cannot be written ({error.strerror})"))
    except ConfigError as error:
        end_with_mistake(error)
    say(
        f"{folder}: ca.crt is for every site, site-N.key for site N alone; ca.key stays here, and is not needed to run."
    )
