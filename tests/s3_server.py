"""A server of S3's protocol on loopback, in a process of its own: ``python tests/s3_server.py PORT``.

It serves one request at a time: moto alone lets two of those win that create one object at the same moment.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

if __name__ == "__main__":  # its folder is where Python looks then
    import oss_rules
else:
    from tests import oss_rules

BUCKET = "checkpoints"
START_SECONDS = 60.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@contextmanager
def serving() -> Iterator[str]:
    """Its endpoint; it has the bucket `BUCKET`, and one that behaves as those of OSS do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", __file__, str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            endpoint = f"http://127.0.0.1:{port}"
            _make_bucket(f"{endpoint}/{BUCKET}", server)
            oss_rules.make_bucket(f"{endpoint}/{oss_rules.BUCKET}")
            yield endpoint
        finally:
            server.kill()


def _make_bucket(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            oss_rules.make_bucket(url)
        except OSError:
            assert server.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)
        else:
            return


def url(endpoint: str, prefix: str, bucket: str = BUCKET) -> str:
    """Of a repository in a bucket."""
    return f"s3://{bucket}/{prefix}?endpoint={endpoint}"


def set_credentials() -> None:
    os.environ.update(CREDENTIALS)


def main(port: int) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    application = oss_rules.with_oss_rules(DomainDispatcherApplication(create_backend_app))
    one_at_a_time = threading.Lock()

    def serve(environ: Any, start_response: Any) -> list[bytes]:
        with one_at_a_time:
            return list(application(environ, start_response))

    run_simple("127.0.0.1", port, serve, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
