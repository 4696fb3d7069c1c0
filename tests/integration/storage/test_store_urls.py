"""URLs of stores: what is refused, and that credentials show nowhere."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from tests import s3_server
from tests.s3_proxy import meddling

from holdfast import Checkpointer
from holdfast.errors import StorageError, UsageError
from holdfast.storage.urls import open_storage


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("s3:///prefix", "names no bucket"),
        ("s3://bucket/x?endpont=http://127.0.0.1:1", "the option 'endpont'"),
        ("s3://key:secret@bucket/x", "must not hold credentials"),
        ("az://container/x?region=eu", "the option 'region', which is none of endpoint, upload_limit"),
        ("gs://bucket/x?path_style=no", "the option 'path_style'"),
        ("az://container/x", "Account must be specified"),
        ("s3://bucket/x?endpoint=minio.example", "'minio.example' is no address"),
        ("s3://bucket/x?endpoint=http://127.0.0.1:9000:9000", "is no address"),
        ("gs://bucket/x?endpoint=https://", "is no address"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(place: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(UsageError, match=why):
        open_storage(place)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/prefix?secret_access_key=TELL-NOBODY",
        "s3://bucket/prefix?sv=2024&sig=TELL-NOBODY",
        "s3://bucket/prefix?endpoint=https://me:TELL-NOBODY@minio:9000",
        "s3://AKIA:TELL-NOBODY@bucket/prefix",
        "s3://AKIA:TELL-NOBODY@[bucket/prefix",
        "az://account:TELL-NOBODY@container",
        "ftp://me:TELL-NOBODY@host/prefix",
        "file://me:TELL-NOBODY@host/prefix",
    ],
)
@pytest.mark.parametrize("use", [open_storage, lambda url: Checkpointer("memory://urls", {}, mirror=url)])
def test_secrets_in_a_url_are_refused_and_not_repeated(url: str, use: Callable[[str], object]) -> None:
    with pytest.raises(UsageError) as caught:
        use(url)
    assert "TELL-NOBODY" not in "".join(traceback.format_exception(caught.value))


def test_credentials_show_nowhere(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "TELL-NOBODY")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "NOR-THIS")
    with meddling(s3, lambda method, headers: 403) as endpoint:
        storage = open_storage(s3_server.url(endpoint, "x"))
        with pytest.raises(StorageError) as caught:
            storage.put_if_absent("a", b"x")
    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
    for shown in ("".join(told), repr(storage), str(vars(storage))):
        assert "TELL-NOBODY" not in shown
        assert "NOR-THIS" not in shown


def test_plain_http_is_only_spoken_where_a_url_says_so(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", s3)  # found by obstore, unasked
    with pytest.raises(StorageError, match="builder error"):
        open_storage(f"s3://{s3_server.BUCKET}/x").get("a")
