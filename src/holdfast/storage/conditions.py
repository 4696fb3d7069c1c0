"""Whether a store honours "create only if absent": tried, never assumed.

A store that ignores the condition would let two launches take the same attempt; several do, or did.
"""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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


def check_conditions(store: Any, location: str) -> None:
    """Let some creations of one object race; exactly one has to win, and a later one to lose.

    Raises
    ------
    StorageError
        The store ignores or refuses the condition.
    """
    key = f"staging/race-{uuid.uuid4().hex}"
    with told_plainly("creating an object on trial", location), ThreadPoolExecutor(RACERS) as pool:
        try:
            won = list(pool.map(lambda number: _creates(store, key, number), range(RACERS)))
            won.append(_creates(store, key, RACERS))
        finally:
            take_away(store, key)
    if won.count(True) != 1 or won[-1]:
        raise StorageError(
            f"The store of {location} does not honour 'create only if absent' (If-None-Match): "
            "two launches could not be kept apart.",
            do="Use a store that does, such as Amazon S3, Google Cloud Storage or Azure.",
        )


def take_away(store: Any, key: str) -> None:
    """Delete an object made on trial; who may delete nothing leaves it."""
    try:
        obstore.delete(store, key)
    except BaseError as error:
        if not is_denied(error):
            raise


def _creates(store: Any, key: str, number: int) -> bool:
    try:
        obstore.put(store, key, str(number).encode(), mode="create", use_multipart=False)
    except (AlreadyExistsError, PreconditionError):
        return False
    except NotSupportedError:
        return False
    except GenericError as error:
        if "status code: 409" in str(error) or "status code: 501" in str(error):
            return False  # lost to another at that very moment; or refused: then none wins
        raise
    return True
