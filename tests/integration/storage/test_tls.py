"""A store behind a certificate of somebody's own authority."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests import s3_server

SAVES = """
import sys, holdfast
holdfast.save(sys.argv[1], {"a": 1}, step=1)
print(holdfast.open(sys.argv[1])["main"].latest.step)
"""


def certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, by: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    names = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (issuer, subject))
    host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    what = x509.BasicConstraints(True, None) if subject == issuer else x509.SubjectAlternativeName([host])
    return (
        x509.CertificateBuilder(*names, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(what, critical=subject == issuer)
        .sign(by, hashes.SHA256())
    )


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The authority's certificate; beside it the server's, with its key."""
    own, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
    (tmp_path / "ca.pem").write_bytes(certificate("ca", own, "ca", own).public_bytes(pem))
    secret = server.private_bytes(pem, serialization.PrivateFormat.PKCS8, none)
    public = certificate("server", server, "ca", own).public_bytes(pem)
    (tmp_path / "server.pem").write_bytes(secret + public)
    return tmp_path / "ca.pem"


@pytest.fixture
def secure(s3: str, authority: Path) -> Iterator[str]:
    """Endpoint that speaks TLS in front of the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.with_name("server.pem"))
    port = int(s3.rpartition(":")[2])

    def forward(accepted: socket.socket) -> None:
        with (
            accepted,
            suppress(OSError),
            context.wrap_socket(accepted, server_side=True) as inside,
            socket.create_connection(("127.0.0.1", port)) as outside,
        ):
            back = threading.Thread(target=pipe, args=(outside, inside), daemon=True)
            back.start()
            pipe(inside, outside)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # closed at the end
                while True:
                    threading.Thread(target=forward, args=(listening.accept()[0],), daemon=True).start()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)  # wakes it: tests that fork want no thread left
        server.join()


def pipe(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


def test_a_certificate_of_an_authority_of_ones_own_is_taken(
    secure: str, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    place = s3_server.url(secure, "secure")
    done = subprocess.run([sys.executable, "-c", SAVES, place], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
