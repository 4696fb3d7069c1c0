"""What Alibaba Cloud's OSS does otherwise than S3, as a layer (WSGI) around a server of S3's protocol.

It ignores If-None-Match. With ``x-oss-forbid-overwrite: true`` a PUT, or the completion of a multipart
upload, is refused where the key is taken: 409, FileAlreadyExists. In a bucket under versioning that is void.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs
from urllib.request import Request, urlopen

BUCKET = "oss"
"""Any bucket whose name begins so behaves as OSS does."""
_TAKEN = b"<Error><Code>FileAlreadyExists</Code><Message>The object already exists.</Message></Error>"
_ENABLED = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def make_bucket(url: str) -> None:
    urlopen(Request(url, method="PUT")).close()


def keep_versions(url: str) -> None:
    """Put a bucket under versioning."""
    kind = {"Content-Type": "application/xml"}
    urlopen(Request(f"{url}?versioning=", _ENABLED, kind, method="PUT")).close()


def with_oss_rules(application: Application) -> Application:
    """The same server, in which some buckets behave as OSS does."""
    versioned: set[str] = set()

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        bucket, _, key = environ["PATH_INFO"].strip("/").partition("/")
        if not bucket.startswith(BUCKET):
            return application(environ, start_response)
        environ.pop("HTTP_IF_NONE_MATCH", None)
        if not key and "versioning" in environ["QUERY_STRING"]:
            versioned.add(bucket)
        if bucket in versioned or not _forbids(environ) or not _is_taken(application, environ):
            return application(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("409 Conflict", [("Content-Length", str(len(_TAKEN)))])
        return [_TAKEN]

    return serve


def _forbids(environ: dict[str, Any]) -> bool:
    is_part_of_many = "uploadId" in parse_qs(environ["QUERY_STRING"])
    makes_object = environ["REQUEST_METHOD"] == ("POST" if is_part_of_many else "PUT")
    return makes_object and environ.get("HTTP_X_OSS_FORBID_OVERWRITE") == "true"


def _is_taken(application: Application, environ: dict[str, Any]) -> bool:
    told: list[str] = []
    asked = {"REQUEST_METHOD": "HEAD", "QUERY_STRING": "", "CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO()}
    list(application(environ | asked, lambda status, headers, *rest: told.append(status)))
    return told[0].startswith("200")
