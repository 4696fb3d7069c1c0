"""How a store creates an object only if it is absent: tried, never assumed.

A store that ignores the condition would let two launches take the same attempt; several do, or did.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotSupportedError,
    PreconditionError,
)

from holdfast.errors import StorageError
from holdfast.storage.refusals import is_denied, told_plainly

RACERS = 4
FORBID_OVERWRITE = "x-oss-forbid-overwrite"


class Creator(Protocol):
    """One way to ask a store for it."""

    name: str
    """Of the header."""

    def create(self, key: str, data: bytes) -> None:
        """Create the object, asking once. AlreadyExistsError if it is there, or comes to be meanwhile."""
        ...


class IfNoneMatch:
    """The usual way.

    Parameters
    ----------
    once : obstore store
        Asks once only: a creation that is repeated may meet itself.
    """

    name = "If-None-Match"

    def __init__(self, once: Any) -> None:
        self._once = once

    def create(self, key: str, data: bytes) -> None:
        obstore.put(self._once, key, data, mode="create", use_multipart=False)


class ForbidOverwrite:
    """That of Alibaba Cloud's OSS. Where a bucket keeps versions its header is void: objects are replaced.

    Parameters
    ----------
    forbidding : obstore store
        Asks once only, and sends the header with whatever it writes.
    location : str
    """

    name = FORBID_OVERWRITE

    def __init__(self, forbidding: Any, location: str) -> None:
        self._forbidding = forbidding
        self._location = location

    def create(self, key: str, data: bytes) -> None:
        done = obstore.put(self._forbidding, key, data, mode="overwrite", use_multipart=False)
        if done["version"] is not None:  # told only where versions are kept, or were once
            raise StorageError(
                f"The bucket of {self._location} keeps versions, which voids {self.name}: "
                "two launches could not be kept apart.",
                do="Use a bucket that has never kept versions.",
            )


def working_creator(creators: Sequence[Creator], store: Any, location: str) -> Creator:
    """The first that works: of creations of one object that race exactly one wins, and a later one loses.

    Raises
    ------
    StorageError
        The store ignores or refuses all of them.
    """
    with told_plainly("creating an object on trial", location):
        for creator in creators:
            if _keeps_apart(creator, store):
                return creator
    tried = " and ".join(creator.name for creator in creators)
    raise StorageError(
        f"The store of {location} does not honour 'create only if absent' ({tried}): "
        "two launches could not be kept apart.",
        do="Use a store that does, such as Amazon S3, Google Cloud Storage or Azure.",
    )


def _keeps_apart(creator: Creator, store: Any) -> bool:
    key = f"staging/race-{uuid.uuid4().hex}"
    try:
        with ThreadPoolExecutor(
            RACERS
        ) as pool:  # all have ended, also if one failed, before it is taken away
            won = list(pool.map(lambda number: _creates(creator, key, number), range(RACERS)))
        won.append(_creates(creator, key, RACERS))
    finally:
        take_away(store, key)
    return won.count(True) == 1 and not won[-1]


def take_away(store: Any, key: str) -> None:
    """Delete an object made on trial; who may delete nothing leaves it."""
    try:
        obstore.delete(store, key)
    except BaseError as error:
        if not is_denied(error):
            raise


def _creates(creator: Creator, key: str, number: int) -> bool:
    try:
        creator.create(key, str(number).encode())
    except (AlreadyExistsError, PreconditionError):
        return False
    except NotSupportedError:
        return False
    except GenericError as error:
        if "status code: 409" in str(error) or "status code: 501" in str(error):
            return False  # lost to another at that very moment; or refused: then none wins
        raise
    return True
