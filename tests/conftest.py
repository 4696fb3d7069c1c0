"""For all tests: saves happen where a test can reach them, unless it is about saves in the background.

And what a killed trainer leaves in memory stays there no longer than its test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("HOLDFAST_BACKGROUND", "0")
os.environ.setdefault("HOLDFAST_MEMORY_SECONDS", "0")


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Endpoint of a server that speaks S3's protocol."""
    from tests import s3_server

    s3_server.set_credentials()
    with s3_server.serving() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def azure() -> Iterator[str]:
    """Endpoint of Microsoft's emulator of Azure's blobs."""
    from tests import node_servers

    node_servers.set_azure_credentials()
    with node_servers.azurite() as endpoint:
        yield endpoint
