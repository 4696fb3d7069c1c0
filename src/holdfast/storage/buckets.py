"""URLs of object stores: which store, which credentials, how patient."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from holdfast.errors import UnsupportedError, UsageError
from holdfast.storage.pacing import Pace, parse_rate, parse_requests

if TYPE_CHECKING:
    from holdfast.storage.conditions import Creator
    from holdfast.storage.objects import ObjectStorage

_AMAZON = {"endpoint": "endpoint", "region": "region"}
_GOOGLE = {"endpoint": "base_url"}
_AZURE = {"endpoint": "endpoint"}
_SETTINGS = {"s3": _AMAZON, "s3a": _AMAZON, "gs": _GOOGLE, "az": _AZURE, "azure": _AZURE}
_SETTINGS |= {"abfs": _AZURE, "abfss": _AZURE}
"""Of each scheme: options, and what obstore calls them."""
SCHEMES = _SETTINGS.keys()
RETRY_SECONDS = 180.0
_OF_ALL = ("upload_limit", "request_limit")
_NO_SECRETS = "A URL must not hold credentials."
_IN_ENVIRONMENT = "Put them into the environment."
_EXAMPLE = "Write for example 's3://bucket/prefix?endpoint=https://minio.example:9000&region=us-east-1'."


def check_bucket(url: str) -> dict[str, str]:
    """The options of a URL such as ``s3://bucket/prefix?region=r``, which can be one of a bucket.

    Raises
    ------
    UsageError
        The URL holds secrets, unknown options, or no bucket.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not match; what it says may repeat secrets
        raise UsageError("Such a URL names no bucket.", do=_EXAMPLE) from None
    if not parts.netloc:
        raise UsageError(f"{_without_options(url)} names no bucket.", do=_EXAMPLE)
    if parts.password is not None or ("@" in parts.netloc and parts.scheme in ("s3", "s3a", "gs")):
        raise UsageError(_NO_SECRETS, do=_IN_ENVIRONMENT)
    options = _options(url, parts.query)
    _paces(options)
    return options


def open_bucket(url: str) -> ObjectStorage:
    """The storage that a URL such as ``s3://bucket/prefix`` names; nothing is asked of it yet.

    Credentials come from where the store's own tools look for them: environment, instance, workload identity.

    Raises
    ------
    UsageError
        As from `check_bucket`; or the store must know more than it is told.
    UnsupportedError
        The extra ``objects`` is not installed.
    """
    options, parts = check_bucket(url), urlsplit(url)
    try:
        from holdfast.storage.objects import ObjectStorage
    except ImportError as error:
        raise UnsupportedError(
            f"{parts.scheme}:// needs the package obstore.", do="pip install 'holdfast[objects]'."
        ) from error
    place = f"{parts.scheme}://{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
    patient: Any = {"max_retries": 10, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    with _refused_plainly(url):
        store, creators = _store(place, options, patient), _creators(place, options, url)
    return ObjectStorage(store, creators, url, *_paces(options))


@contextmanager
def _refused_plainly(url: str) -> Iterator[None]:
    from obstore.exceptions import BaseError

    from holdfast.storage.refusals import first_line

    try:
        yield
    except BaseError as error:
        raise UsageError(
            f"{_without_options(url)} cannot be used: {first_line(error)}.",
            do="Correct the URL, or what the environment says of the store.",
        ) from error


def _paces(options: dict[str, str]) -> tuple[Pace | None, Pace | None]:
    """Of sending and of asking."""
    sending = Pace(parse_rate(options["upload_limit"])) if "upload_limit" in options else None
    asking = Pace(parse_requests(options["request_limit"])) if "request_limit" in options else None
    return sending, asking


def _creators(place: str, options: dict[str, str], url: str) -> list[Creator]:
    from holdfast.storage.conditions import FORBID_OVERWRITE, ForbidOverwrite, IfNoneMatch

    once: Any = {"max_retries": 0}
    usual = IfNoneMatch(_store(place, options, once))
    if _SETTINGS[urlsplit(place).scheme] is not _AMAZON:
        return [usual]
    return [usual, ForbidOverwrite(_store(place, options, once, {FORBID_OVERWRITE: "true"}), url)]


def _store(place: str, options: dict[str, str], retries: Any, headers: dict[str, str] | None = None) -> Any:
    from obstore.store import from_url

    client = _client(options) | {"default_headers": headers or {}}
    return from_url(place, config=_config(place, options), client_options=client, retry_config=retries)


def _options(url: str, query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    settings = _SETTINGS[urlsplit(url).scheme]
    known = (*settings, *(("path_style",) if settings is _AMAZON else ()), *_OF_ALL)
    unknown = options.keys() - set(known)
    if unknown:
        place = _without_options(url)
        raise UsageError(
            f"The URL {place} has the option {min(unknown)!r}, which is none of {', '.join(known)}.",
            do=_EXAMPLE,
        )
    endpoint = options.get("endpoint")
    if "@" in (endpoint or ""):
        raise UsageError(_NO_SECRETS, do=_IN_ENVIRONMENT)
    if endpoint is not None and not _is_address(endpoint):
        raise UsageError(f"The endpoint {endpoint!r} is no address.", do=_EXAMPLE)
    return options


def _is_address(endpoint: str) -> bool:
    with suppress(ValueError):  # of a port that is none
        parts = urlsplit(endpoint)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    return False


def _without_options(url: str) -> str:
    """For messages: there may be secrets among them, where they must not be."""
    return url.partition("?")[0]


def _config(place: str, options: dict[str, str]) -> Any:
    settings = _SETTINGS[urlsplit(place).scheme]
    config: dict[str, Any] = {settings[name]: options[name] for name in settings if name in options}
    if options.get("path_style", "").lower() in ("0", "false", "no"):
        config["virtual_hosted_style_request"] = "true"
    return config


def _client(options: dict[str, str]) -> Any:
    endpoint = options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
    return {"allow_http": endpoint.startswith("http://"), "timeout": timedelta(seconds=RETRY_SECONDS)}
