"""Snapshot memory that outlives the trainer: anonymous files, shared with the agent by descriptor.

A memfd needs no /dev/shm (64 MiB in containers), has no name to clean up, and lives for as long as
one of its two owners does.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.domain.manifest import Details
from holdfast.domain.progress import Progress
from holdfast.domain.tensors import TensorSpec
from holdfast.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

ALIGNMENT_BYTES = 64
"""Of large tensors in a slot: a cache line, which copies like."""
SMALL_BYTES = 64 * 1024
"""Below it tensors lie end to end, and are gathered by one system call for many."""
MAX_RECORD_BYTES = 1 << 30
LEFT_OUT = -1
_TOUCHED_BYTES = 64 * 1024 * 1024
_open_slots: weakref.WeakSet[Slot] = weakref.WeakSet()


class Slot:
    """Memory for one snapshot.

    Parameters
    ----------
    descriptor : int
        Of the anonymous file; owned from now on.
    at_once : bool
        Map all of it now, as it is: page by page makes the first use of it several times as long.
    """

    def __init__(self, descriptor: int, *, at_once: bool = True) -> None:
        self.descriptor = descriptor
        self._closing = weakref.finalize(self, os.close, descriptor)
        self.size_bytes = os.fstat(descriptor).st_size
        self._memory = self._mapped(mmap.MAP_POPULATE) if at_once else None
        _open_slots.add(self)

    @property
    def memory(self) -> Bytes:
        """``uint8[size_bytes]``, shared with whoever has the descriptor."""
        if self._memory is None:
            self._memory = self._mapped(0)
        return self._memory

    def _mapped(self, flags: int) -> Bytes:
        import numpy as np

        mapped = mmap.mmap(self.descriptor, self.size_bytes, flags=mmap.MAP_SHARED | flags)
        with suppress(AttributeError, OSError):  # a forked data worker must not keep it alive
            mapped.madvise(mmap.MADV_DONTFORK)
        return np.frombuffer(mapped, np.uint8)

    def forget(self) -> None:
        """In a forked child, where it is not mapped."""
        import numpy as np

        self.close()
        self._memory = np.empty(0, np.uint8)

    @classmethod
    def create(cls, size_bytes: int) -> Slot:
        """Take the memory now, so that no write to it can fail later, or has to wait for it.

        That takes about 0.7 s per GB. Python's lock is not held meanwhile, as it would be by a mapping
        that is populated at once.

        Raises
        ------
        OSError
            There is too little, or the system has no anonymous files.
        """
        descriptor = os.memfd_create("holdfast-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(descriptor, 0, size_bytes)
            # neither owner can pull it from under the other
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(descriptor)
            raise
        slot = cls(descriptor, at_once=False)
        for start in range(0, size_bytes, _TOUCHED_BYTES):
            slot.memory[start : start + _TOUCHED_BYTES : mmap.PAGESIZE] = 0
        return slot

    def give_back(self) -> None:
        """Let the system have the memory at once, whoever else uses it: what it held is zeros from now on."""
        with mmap.mmap(self.descriptor, self.size_bytes) as mapped, suppress(OSError):
            mapped.madvise(mmap.MADV_REMOVE)

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last who uses it."""
        self._closing()
        self.descriptor = -1


def _forget_in_child() -> None:
    for slot in list(_open_slots):
        slot.forget()


os.register_at_fork(after_in_child=_forget_in_child)


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A tensor in a slot; with the offset `LEFT_OUT` it is not there, as the parent has the same."""

    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.dtype, self.shape)


class SnapshotRecord(msgspec.Struct, frozen=True):
    """A snapshot's table of contents, which lies behind its tensors in the slot.

    Attributes
    ----------
    attempt : str
        The one whose state it is.
    tensors : dict[str, Place]
    details : Details
        Everything that is no tensor, encoded.
    compared, unchanged_since
        As in `repository.commit.Draft`, like the rest.
    """

    attempt: str
    sequence: int
    progress: Progress
    reason: str
    metrics: dict[str, float]
    done: bool
    monitor: str | None
    tensors: dict[str, Place]
    details: Details
    compared: frozenset[str] = frozenset()
    unchanged_since: int = 0


def lay_out(specs: Mapping[str, TensorSpec], left_out: Collection[str] = ()) -> tuple[dict[str, Place], int]:
    """Give every tensor its place: large ones aligned, then the small ones end to end.

    Parameters
    ----------
    left_out : collection of str
        These get none.

    Returns
    -------
    places : dict[str, Place]
        In the order of ``specs``.
    size_bytes : int
        What they take together.
    """
    offsets, end = dict.fromkeys(left_out, LEFT_OUT), 0
    staged = {name: spec for name, spec in specs.items() if name not in offsets}
    for name, spec in staged.items():
        if spec.size_bytes >= SMALL_BYTES:
            offsets[name] = end
            end += -(-spec.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    for name, spec in staged.items():
        if spec.size_bytes < SMALL_BYTES:
            offsets[name] = end
            end += spec.size_bytes
    return {name: Place(spec.dtype, spec.shape, offsets[name]) for name, spec in specs.items()}, end


def read_record(slot: Slot, start: int, size_bytes: int) -> SnapshotRecord:
    """Read a snapshot's record; every place in it lies within the slot.

    Raises
    ------
    ValueError
        It is no record.
    """
    if not 0 <= start <= start + size_bytes <= min(slot.size_bytes, start + MAX_RECORD_BYTES):
        raise ValueError("the record lies outside the slot")
    record = msgspec.msgpack.decode(slot.memory[start : start + size_bytes].data, type=SnapshotRecord)
    for name, place in record.tensors.items():
        if (
            place.offset != LEFT_OUT
            and not 0 <= place.offset <= place.offset + place.spec.size_bytes <= start
        ):
            raise ValueError(f"the tensor {name} lies outside the slot")
    return record


class SlotSource:
    """A tensor of a snapshot, as `TensorSource`."""

    def __init__(self, slot: Slot, place: Place) -> None:
        self._slot = slot
        self._offset = place.offset
        self.spec = place.spec

    def read(self) -> npt.NDArray[Any]:
        if self._offset == LEFT_OUT:
            raise StorageError(
                "The repository has lost a tensor that was the same in the checkpoint before, "
                "so that the snapshot was taken without it.",
                do="The next save holds all of it again.",
            )
        return self._slot.memory[self._offset : self._offset + self.spec.size_bytes]
