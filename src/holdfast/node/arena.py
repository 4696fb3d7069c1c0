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

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

ALIGNMENT_BYTES = 64
"""Of large tensors in a slot: a cache line, which copies like."""
SMALL_BYTES = 64 * 1024
"""Below it tensors lie end to end, and are gathered by one system call for many."""
MAX_RECORD_BYTES = 1 << 30
_open_slots: weakref.WeakSet[Slot] = weakref.WeakSet()


class Slot:
    """Memory for one snapshot.

    Parameters
    ----------
    descriptor : int
        Of the anonymous file; owned from now on.

    Attributes
    ----------
    memory : ndarray
        ``uint8[size_bytes]``, shared with whoever has the descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        import numpy as np

        self.descriptor = descriptor
        self._closing = weakref.finalize(self, os.close, descriptor)
        self.size_bytes = os.fstat(descriptor).st_size
        # all of it now: mapping page by page would make the first copy several times as long
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        mapped = mmap.mmap(descriptor, self.size_bytes, flags=flags)
        with suppress(AttributeError, OSError):  # a forked data worker must not keep it alive
            mapped.madvise(mmap.MADV_DONTFORK)
        self.memory: Bytes = np.frombuffer(mapped, np.uint8)
        _open_slots.add(self)

    @classmethod
    def create(cls, size_bytes: int) -> Slot:
        """Take the memory now, so that no write to it can fail later.

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
        return cls(descriptor)

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last who uses it."""
        self._closing()
        self.descriptor = -1


def _forget_in_child() -> None:
    import numpy as np

    for slot in list(_open_slots):
        slot.close()
        slot.memory = np.empty(0, np.uint8)  # it is not mapped here


os.register_at_fork(after_in_child=_forget_in_child)


class Place(msgspec.Struct, frozen=True, array_like=True):
    """A tensor in a slot."""

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

    The rest is as in `repository.commit.Draft`.
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


def lay_out(specs: Mapping[str, TensorSpec]) -> tuple[dict[str, Place], int]:
    """Give every tensor its place: large ones aligned, then the small ones end to end.

    Returns
    -------
    places : dict[str, Place]
        In the order of ``specs``.
    size_bytes : int
        What they take together.
    """
    offsets, end = {}, 0
    for name, spec in specs.items():
        if spec.size_bytes >= SMALL_BYTES:
            offsets[name] = end
            end += -(-spec.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    for name, spec in specs.items():
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
        if not 0 <= place.offset <= place.offset + place.spec.size_bytes <= start:
            raise ValueError(f"the tensor {name} lies outside the slot")
    return record


class SlotSource:
    """A tensor of a snapshot, as `TensorSource`."""

    def __init__(self, slot: Slot, place: Place) -> None:
        self._slot = slot
        self._offset = place.offset
        self.spec = place.spec

    def read(self) -> npt.NDArray[Any]:
        return self._slot.memory[self._offset : self._offset + self.spec.size_bytes]
