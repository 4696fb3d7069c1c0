"""What an object store's refusals mean to a person: obstore's errors to `StorageError`."""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from obstore.exceptions import (
    BaseError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from holdfast import errors

ABSENT = (FileNotFoundError, NotFoundError)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,80})</Code>")
_CONNECTED = "See whether the store can be reached from here, and the endpoint that was given."
_ALLOWED = "Give credentials that may do this, for example in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
_BEYOND = ("Invalid range", "Wanted range starting at")
_AGAIN = (408, 409, 429, 500, 502, 503, 504)
"""S3 answers 409 to creations of one object at one time."""


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later; it may have been carried out, too."""
    status = _status(error)
    return status is None or status in _AGAIN


def is_beyond_the_end(error: BaseException) -> bool:
    """Whether the object ends before the bytes that were asked for."""
    return _status(error) == 416 or any(words in str(error) for words in _BEYOND)


def is_denied(error: BaseException) -> bool:
    """Whether these credentials may not do it; a deletion is refused within an answer that is no refusal."""
    kinds = PermissionDeniedError | UnauthenticatedError
    return isinstance(error, kinds) or _status(error) in (401, 403) or "AccessDenied" in str(error)


def refusal(error: BaseException, doing: str, location: str) -> errors.HoldfastError:
    """Say in one sentence what failed where, and in one what to do."""
    failed = f"{doing[:1].upper()}{doing[1:]} in {location} failed"
    if "NoSuchBucket" in str(error):
        return errors.StorageError(f"{failed}: there is no such bucket.", do="Create it, or correct the URL.")
    if isinstance(error, ABSENT):
        return errors.NotFoundError(f"There is no {doing.partition(' ')[2]} in {location}.")
    status = _status(error)
    if is_denied(error):
        what = f"{failed}: access was denied{_code(error)}."
        return errors.StorageError(what, do=_ALLOWED, errno=errno.EACCES)
    if status is None:
        return errors.StorageError(f"{failed}: {first_line(error)}.", do=_CONNECTED)
    return errors.StorageError(
        f"{failed}: the store answered {status}{_code(error)}.",
        do="See the store's own log, or try again later.",
    )


@contextmanager
def told_plainly(doing: str, location: str, *, but: Collection[BaseException] = ()) -> Iterator[None]:
    """Turn obstore's errors of the block, save those in ``but``, into Holdfast's."""
    try:
        yield
    except (BaseError, *ABSENT) as error:
        if any(error is other for other in but):
            raise
        raise refusal(error, doing, location) from error


def _status(error: BaseException) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _code(error: BaseException) -> str:
    found = _CODE.search(str(error))
    return f" ({found[1]})" if found else ""


def first_line(error: BaseException) -> str:
    """What it says, in short."""
    return str(error).strip().partition("\n")[0].removeprefix("Generic ")[:300]
