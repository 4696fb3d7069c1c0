"""The lease of a live run: one trainer at a time, and a dead one never in the way."""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec

from holdfast.domain.intervals import Choice
from holdfast.errors import BusyError, DamagedError, NotFoundError, StorageError
from holdfast.node.process import ProcessIdentity
from holdfast.storage.base import Storage

LEASE_SECONDS = 300.0
"""Without news for so long, a holder that cannot be looked at is taken for dead."""
CLAIM_WAIT_SECONDS = 30.0


class LeaseRecord(msgspec.Struct, frozen=True):
    """Who holds a run, and since when; its file's age says when it was last renewed.

    Attributes
    ----------
    given_back : bool
        Where nobody may delete, the record stays and says so.
    saving : Choice or None
        How far apart the holder's saves are, where that is its own choice.
    """

    holder: ProcessIdentity
    taken_seconds: float
    given_back: bool = False
    saving: Choice | None = None


class Lease:
    """Held from `claim` until `release`; renewed as training goes on."""

    def __init__(self, storage: Storage, key: str, record: LeaseRecord) -> None:
        self._storage = storage
        self._key = key
        self._record = record
        self._renewed = time.monotonic()

    def renew_if_old(self, saving: Callable[[], Choice | None]) -> None:
        """Renew once a quarter of the lease time has passed; cheap to call at every step.

        Parameters
        ----------
        saving : callable
            Gives what the record says of saves; the first that there is goes out at once.
        """
        is_old = time.monotonic() - self._renewed > LEASE_SECONDS / 4
        if is_old or self._record.saving is None:
            self._renew(saving(), must=is_old)

    def _renew(self, saving: Choice | None, *, must: bool) -> None:
        if must or saving is not None:
            self._renewed = time.monotonic()
            self._record = msgspec.structs.replace(self._record, saving=saving)
            with suppress(StorageError):  # the next renewal, or a save, will tell
                self._storage.put(self._key, [msgspec.json.encode(self._record)])

    def release(self) -> None:
        """Give the run back."""
        if not _deleted(self._storage, self._key):
            given_back = msgspec.structs.replace(self._record, given_back=True)
            self._storage.put(self._key, [msgspec.json.encode(given_back)])


class Unheld:
    """What a process has that trains under another one's lease."""

    def renew_if_old(self, saving: Callable[[], Choice | None]) -> None:
        pass

    def release(self) -> None:
        pass


def holders(storage: Storage, folder: str) -> list[ProcessIdentity]:
    """Processes that hold a lease in ``folder`` and are not known to be dead."""
    return [record.holder for record in live(storage, folder)]


def live(storage: Storage, folder: str) -> list[LeaseRecord]:
    """Leases in ``folder`` whose holders are not known to be dead."""
    return [record for _, record, alive in _records(storage, folder) if record and alive]


def refuse_if_held(storage: Storage, folder: str, what: str) -> None:
    """Raise unless every holder is dead, expired, or this very process; tidy what they left.

    Raises
    ------
    BusyError
        Names host and process.
    """
    for key, record, alive in _records(storage, folder):
        if record and alive and not record.holder.is_this_process():
            raise _held(what, record)
        _deleted(storage, key)


def refuse_if_live(storage: Storage, folder: str, what: str) -> None:
    """As `refuse_if_held`, but nothing is tidied.

    Raises
    ------
    BusyError
    """
    for record in live(storage, folder):
        raise _held(what, record)


def _held(what: str, record: LeaseRecord) -> BusyError:
    return BusyError(
        f"{what} is being trained by {record.holder}.",
        do="Wait for it or stop it; a holder on another machine counts as dead after"
        f" {LEASE_SECONDS:.0f} s without news.",
    )


def _deleted(storage: Storage, key: str) -> bool:
    """Delete a record; False if these credentials may not."""
    try:
        storage.delete(key)
    except StorageError as error:
        if error.errno != errno.EACCES:
            raise
        return False
    return True


def take(storage: Storage, key: str) -> Lease:
    """Write the lease of this process; the caller has called `refuse_if_held` under `claiming`."""
    record = LeaseRecord(ProcessIdentity.of_this_process(), storage.now_seconds())
    storage.put(key, [msgspec.json.encode(record)])
    return Lease(storage, key, record)


def claim_lock_name(run: str) -> str:
    """The lock under which a run is looked at and taken in one go."""
    return f"run-{hashlib.sha256(run.encode()).hexdigest()[:16]}"


@contextmanager
def claiming(storage: Storage, run: str, wait_seconds: float = CLAIM_WAIT_SECONDS) -> Iterator[None]:
    """Hold the run's claim: while it is held no other launch of it can begin.

    Raises
    ------
    BusyError
        Somebody else holds it.
    """
    with storage.lock(claim_lock_name(run), shared=False, wait_seconds=wait_seconds) as held:
        if not held and storage.exclusive_locks:
            raise BusyError(f"The run {run} is just being launched.", do="Try again in a moment.")
        yield


def _records(storage: Storage, folder: str) -> list[tuple[str, LeaseRecord | None, bool]]:
    """Key, record and whether the holder may still be alive, of every lease."""
    found = []
    for key in list(storage.list(folder)):
        record = _read(storage, key)
        found.append((key, record, record is not None and not _over(storage, key, record)))
    return found


def _over(storage: Storage, key: str, record: LeaseRecord) -> bool:
    if record.given_back:
        return True
    if record.holder.visible():
        return record.holder.provably_dead()
    stat = storage.stat(key)
    expired = stat is None or storage.now_seconds() - stat.modified_seconds > LEASE_SECONDS
    return expired or record.holder.provably_dead()


def _read(storage: Storage, key: str) -> LeaseRecord | None:
    try:
        return msgspec.json.decode(storage.get(key), type=LeaseRecord)
    except (NotFoundError, DamagedError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
