"""A storage in one process that loses power, acknowledgements and freshness when told to.

A `SimulatedDisk` is the place; each `SimulatedStore` is one process that uses it. Faults are
planned per store by the number of its operation, so a test can sweep a crash over every one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from holdfast.errors import NotFoundError, StorageError
from holdfast.storage.base import ObjectStat
from holdfast.storage.keys import check_key, check_prefix

if TYPE_CHECKING:
    from holdfast.storage.base import Buffer


class SimulatedCrash(BaseException):
    """The process is dead: no `except Exception` may go on after it."""


class Fault(Enum):
    """What goes wrong with one operation."""

    CRASH_BEFORE = "the process dies before anything happened"
    CRASH_TORN = "it dies half way: half the parts consumed, nothing visible"
    CRASH_UNSYNCED = "it dies with the change visible but not durable: power loss undoes it"
    CRASH_AFTER = "it dies after the change is durable, before it learns so"
    FAIL_BEFORE = "an error, and nothing happened"
    FAIL_UNSYNCED = "an error (folder not synced): visible, and power loss undoes it"
    FAIL_AFTER = "an error (lost acknowledgement), and the change is durable"


_CRASHES = (Fault.CRASH_BEFORE, Fault.CRASH_TORN, Fault.CRASH_UNSYNCED, Fault.CRASH_AFTER)
_UNDONE = (Fault.CRASH_BEFORE, Fault.CRASH_TORN, Fault.FAIL_BEFORE)
_UNSYNCED = (Fault.CRASH_UNSYNCED, Fault.FAIL_UNSYNCED)


@dataclass(frozen=True)
class _Object:
    data: bytes
    modified_seconds: float


@dataclass
class SimulatedDisk:
    """What all stores see, what would survive power loss, and the time."""

    now_seconds: float = 1_000_000.0
    has_locks: bool = False
    list_lag_seconds: float = 0.0  # listings show the world as it was that long ago
    free_bytes: int | None = None
    visible: dict[str, _Object] = field(default_factory=dict)
    durable: dict[str, _Object] = field(default_factory=dict)
    appeared: dict[str, float] = field(default_factory=dict)
    vanished: dict[str, float] = field(default_factory=dict)
    holders: dict[str, dict[int, bool]] = field(default_factory=dict)  # lock → store → shared

    def advance(self, seconds: float) -> None:
        self.now_seconds += seconds

    def lose_power(self) -> None:
        """Forget what was not durable, and every lock. Stores opened before are dead to the caller."""
        self.visible = dict(self.durable)
        self.holders.clear()

    def change(self, key: str, data: bytes | None, *, durable: bool) -> None:
        """Set or (None) remove an object."""
        for objects in (self.visible, self.durable) if durable else (self.visible,):
            if data is None:
                objects.pop(key, None)
            else:
                objects[key] = _Object(data, self.now_seconds)
        if data is None:
            self.vanished[key] = self.now_seconds
        else:
            if key in self.vanished or key not in self.appeared:
                self.appeared[key] = self.now_seconds
            self.vanished.pop(key, None)

    def listed(self) -> list[str]:
        """Keys as a listing shows them: late to learn of new ones and of removals."""
        horizon = self.now_seconds - self.list_lag_seconds
        if self.list_lag_seconds == 0:
            return sorted(self.visible)
        shown = {key for key in self.visible if self.appeared.get(key, 0.0) <= horizon}
        return sorted(shown | {key for key, when in self.vanished.items() if when > horizon})


class SimulatedStore:
    """One process's view of a `SimulatedDisk`.

    ``faults`` maps the number of an operation (from 0) to what goes wrong with it; ``before`` is
    called ahead of each operation with its number, verb and key, so that a test can let another
    store act in between. ``log`` lists what was done.
    """

    def __init__(
        self,
        disk: SimulatedDisk | None = None,
        *,
        faults: dict[int, Fault] | None = None,
        before: Callable[[int, str, str], None] | None = None,
    ) -> None:
        self.disk = SimulatedDisk() if disk is None else disk
        self.faults = {} if faults is None else faults
        self.before = before
        self.log: list[tuple[str, str]] = []
        self.dead = False

    @property
    def location(self) -> str:
        return "simulated:"

    def put(self, key: str, parts: Iterable[Buffer]) -> None:
        check_key(key)
        fault = self._begin("put", key)
        data = _gathered(parts, torn=fault is Fault.CRASH_TORN)
        self._change(key, data, fault)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        fault = self._begin("put_if_absent", key)
        found = self.disk.visible.get(key)
        # Like the real one: seeing an object there makes its name durable before saying so.
        self._change(key, bytes(data) if found is None else found.data, fault, keep=found)
        return found is None

    def delete(self, key: str) -> None:
        check_key(key)
        self._change(key, None, self._begin("delete", key))

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        check_key(key)
        data = self._read("get", key)
        return data[start : len(data) if stop is None else max(stop, start)]

    def read_into(self, key: str, start: int, buffer: npt.NDArray[np.uint8]) -> int:
        check_key(key)
        piece = self._read("read_into", key)[start : start + len(buffer)]
        buffer[: len(piece)] = np.frombuffer(piece, np.uint8) if piece else 0
        return len(piece)

    def list(self, prefix: str, start_after: str = "") -> Iterator[str]:
        check_prefix(prefix)
        self._read_only("list", prefix)
        yield from [key for key in self.disk.listed() if key.startswith(prefix) and key > start_after]

    def stat(self, key: str) -> ObjectStat | None:
        check_key(key)
        self._read_only("stat", key)
        found = self.disk.visible.get(key)
        return None if found is None else ObjectStat(len(found.data), found.modified_seconds)

    def now_seconds(self) -> float:
        return self.disk.now_seconds

    def free_bytes(self) -> int | None:
        return self.disk.free_bytes

    @property
    def exclusive_locks(self) -> bool:
        return self.disk.has_locks

    @property
    def sends_whole(self) -> bool:
        return False

    @contextmanager
    def lock(self, name: str, *, shared: bool, wait_seconds: float) -> Iterator[bool]:
        """Never waits: in one thread nobody could let go meanwhile."""
        del wait_seconds
        self._read_only("lock", name)
        token = object()
        holders = self.disk.holders.setdefault(name, {})
        free = all(shared and other for other in holders.values())
        held = self.disk.has_locks and free
        if held:
            holders[id(token)] = shared
        try:
            yield held
        finally:
            # Death lets go as well: the kernel sees to it.
            holders.pop(id(token), None)

    def _begin(self, verb: str, key: str) -> Fault | None:
        if self.dead:
            raise SimulatedCrash(f"{verb} {key}: this process is dead")
        number = len(self.log)
        self.log.append((verb, key))
        if self.before is not None:
            self.before(number, verb, key)
        fault = self.faults.get(number)
        if fault in (Fault.CRASH_BEFORE, Fault.FAIL_BEFORE):
            self._raise(fault, verb, key)
        return fault

    def _change(self, key: str, data: bytes | None, fault: Fault | None, keep: _Object | None = None) -> None:
        if fault not in _UNDONE:
            if keep is None:
                self.disk.change(key, data, durable=fault not in _UNSYNCED)
            elif fault not in _UNSYNCED:
                self.disk.durable[key] = keep
        if fault is not None:
            self._raise(fault, "changing", key)

    def _read(self, verb: str, key: str) -> bytes:
        self._read_only(verb, key)
        found = self.disk.visible.get(key)
        if found is None:
            raise NotFoundError(f"There is no {key} in {self.location}.")
        return found.data

    def _read_only(self, verb: str, key: str) -> None:
        fault = self._begin(verb, key)
        if fault is not None:
            self._raise(fault, verb, key)

    def _raise(self, fault: Fault, verb: str, key: str) -> None:
        if fault in _CRASHES:
            self.dead = True
            raise SimulatedCrash(f"{verb} {key}: {fault.value}")
        raise StorageError(f"Simulated on {verb} {key}: {fault.value}.", errno=errno.EIO)


def _gathered(parts: Iterable[Buffer], *, torn: bool) -> bytes:
    gathered = []
    for part in parts:
        gathered.append(bytes(part))
        if torn:
            break
    return b"".join(gathered)
