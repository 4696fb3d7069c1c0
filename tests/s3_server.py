"""A server of S3's protocol on loopback, in a process of its own: ``python -m tests.s3_server PORT``.

It serves one request at a time: moto alone lets two of those win that create one object at the same moment.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import google_rules, oss_rules
from tests.loopback import free_port, wait_open

BUCKET = "checkpoints"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@contextmanager
def serving() -> Iterator[str]:
    """Its endpoint; it has a bucket of S3's, `BUCKET`, and one each that behaves as OSS's and Google's do."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "tests.s3_server", str(port)]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent, **quiet) as server:
        try:
            wait_open(port, server)
            for bucket in (BUCKET, oss_rules.BUCKET, google_rules.BUCKET):
                oss_rules.make_bucket(f"http://127.0.0.1:{port}/{bucket}")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def url(endpoint: str, prefix: str, bucket: str = BUCKET) -> str:
    """Of a repository in a bucket."""
    return f"s3://{bucket}/{prefix}?endpoint={endpoint}"


def set_credentials() -> None:
    os.environ.update(CREDENTIALS)


def main(port: int) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    moto = DomainDispatcherApplication(create_backend_app)
    application = google_rules.with_google_rules(oss_rules.with_oss_rules(moto))
    one_at_a_time = threading.Lock()

    def serve(environ: Any, start_response: Any) -> list[bytes]:
        with one_at_a_time:
            return list(application(environ, start_response))

    run_simple("127.0.0.1", port, serve, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
