"""Servers from npm on loopback: s3rver, which ignores conditions, and Azurite, Microsoft's Azure emulator."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from urllib.request import Request, urlopen

from tests.loopback import free_port, wait_open

CONTAINER = "checkpoints"
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Known to everybody: the emulator's."""
_MODULES = Path(__file__).parent / "npm" / "node_modules"
_VERSION = "2021-08-06"


@contextmanager
def s3rver(folder: Path) -> Iterator[str]:
    """Endpoint; its credentials are S3RVER and S3RVER, and it has the bucket `CONTAINER`."""
    port = free_port()
    flags = (
        "-d",
        str(folder),
        "-a",
        "127.0.0.1",
        "-p",
        str(port),
        "--configure-bucket",
        CONTAINER,
        "--silent",
    )
    with _running("s3rver/bin/s3rver.js", flags, port):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def azurite() -> Iterator[str]:
    """Endpoint, which ends in the account; it has the container `CONTAINER`, and keeps all in memory."""
    port = free_port()
    where = ("--blobHost", "127.0.0.1", "--blobPort", str(port))
    how = ("--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent")
    with _running("azurite/dist/src/blob/main.js", (*where, *how), port):
        _make_container(f"http://127.0.0.1:{port}/{ACCOUNT}")
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"


def set_azure_credentials() -> None:
    os.environ.update({"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": ACCOUNT_KEY})


@contextmanager
def _running(script: str, flags: tuple[str, ...], port: int) -> Iterator[None]:
    node, program = shutil.which("node"), _MODULES / script
    assert node is not None, "node is not installed: make system"
    assert program.exists(), f"{script} is not installed: make system"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([node, str(program), *flags], **quiet) as server:
        try:
            wait_open(port, server)
            yield
        finally:
            server.kill()


def _make_container(endpoint: str) -> None:
    """By a signed request: object stores' own libraries make none."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": _VERSION}
    named = "\n".join(f"{name}:{value}" for name, value in headers.items())
    signed = "PUT" + "\n" * 12 + f"{named}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
    digest = hmac.new(base64.b64decode(ACCOUNT_KEY), signed.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    urlopen(Request(f"{endpoint}/{CONTAINER}?restype=container", headers=headers, method="PUT")).close()
