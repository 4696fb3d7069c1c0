"""For all tests: saves happen where a test can reach them, unless it is about saves in the background.

And what a killed trainer leaves in memory stays there no longer than its test.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ALL = bool(os.environ.get("HOLDFAST_ALL_TESTS"))
"""Whether to run what is left out of every day's tests, too: `make test-all`."""
os.environ.setdefault("HOLDFAST_BACKGROUND", "0")
os.environ.setdefault("HOLDFAST_MEMORY_SECONDS", "0")
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def pytest_sessionstart(session: pytest.Session) -> None:
    from tests.watchdog import watch

    watch(session.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another test shows as well, in another framework, or on another kind of file system."""
    out = {item for item in items if not ALL and _is_left_out(item)}
    items[:] = _long_first([item for item in items if item not in out])
    config.hook.pytest_deselected(items=list(out))


def _long_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """Let no worker begin a long test when the others are at their end: each begins with some."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("timeout") is not None]
    rest = [item for item in items if item.get_closest_marker("timeout") is None]
    size = -(-len(items) // workers)
    ordered = []
    for worker in range(workers):
        first = long[worker::workers]
        fill = size - len(first)
        ordered += first + rest[:fill]
        rest = rest[fill:]
    return ordered


def _is_left_out(item: pytest.Item) -> bool:
    """Of the matrices each case saves in the loop, and a third of them in each other way, too."""
    if item.get_closest_marker("also") is not None:
        return True
    case = getattr(item, "callspec", None)
    in_the_loop = case is None or case.params.get("saving", "loop") == "loop"
    return not in_the_loop and zlib.crc32(item.nodeid.encode()) % 3 != 0


@pytest.fixture(scope="session", autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What killed trainers leave among the temporary files is gone in the end."""
    tmp_path_factory.getbasetemp()  # stays where it is, for a look at what failed
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        Path(folder).chmod(0o1777)  # for tests as another user
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", None)  # found anew
        yield


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
