"""What Google's XML API does otherwise than S3, as a layer (WSGI) around a server of S3's protocol.

Its condition is ``x-goog-if-generation-match: 0``, refused with 412; every object has a generation.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

BUCKET = "google"
_SIGNED = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def set_credentials() -> None:
    """An account that asks nobody for a token."""
    account = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    os.environ["GOOGLE_SERVICE_ACCOUNT_KEY"] = json.dumps(account)


def with_google_rules(application: Application) -> Application:
    """The same server, in which `BUCKET` behaves as Google's do."""
    generations = count(1)

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"].strip("/").partition("/")[0] != BUCKET:
            return application(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, ("x-goog-generation", str(next(generations)))], *rest)

        if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        environ["HTTP_AUTHORIZATION"] = _SIGNED
        return application(environ, start)

    return serve
