"""Copying a snapshot into shared memory, by threads that hold Python up as little as can be.

What only an optimizer's step changes is copied behind the forward and backward pass: the fence. The
next step waits for what is left. Everything else is copied before training goes on.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from holdfast.domain.tensors import DeviceCopy, DeviceSource, TensorSource
from holdfast.node.arena import LEFT_OUT, SMALL_BYTES, Place, Slot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

Versions = Mapping[tuple[int, int], Callable[[], int]]
"""Address and bytes of memory that only a step changes → its version, which most other changes move.

By both: a buffer that begins where a parameter does may hold more than that.
"""
Task = Callable[[], bool]
PIECE_BYTES = 8 * 1024 * 1024
SAMPLE_BYTES = 1024
GATHERED = 1000
"""Buffers that one system call takes; Linux allows 1024."""


class Fence:
    """Work that is done while training goes on, up to the optimizer's next step.

    Parameters
    ----------
    tasks : sequence of callable
        Copy, or (``compare``) see whether something still is the same; each says whether all is well.
    versions : sequence of callable
        Of every tensor that must stay as it is meanwhile.
    samples : sequence of (target, bytes)
        Some of the bytes as they were when the fence opened: that the copy must agree.
    compare : bool
        The copies are made already: see whether the live bytes are still those.

    Attributes
    ----------
    failure : Exception or None
        What one of the tasks has raised.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        versions: Sequence[Callable[[], int]] = (),
        samples: Sequence[tuple[Bytes, Bytes]] = (),
        *,
        compare: bool = False,
    ) -> None:
        self._left = deque(tasks)
        self._open = len(tasks)
        self._counting = threading.Lock()
        self._compare = compare
        self._versions = [(version, version()) for version in versions]
        self._samples = samples
        self._failed = False
        self.failure: Exception | None = None
        self._helper: threading.Thread | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self._open == 0

    @property
    def guards(self) -> bool:
        """Whether there is any tensor that must stay as it is."""
        return bool(self._versions)

    @property
    def is_whole(self) -> bool:
        """Whether every task came to its end: a device may fail, and Ctrl-C may come in the midst of one."""
        return self.done and self.failure is None

    def begin(self, on_done: Callable[[], None]) -> None:
        """Copy in a thread; it calls ``on_done`` if it was the one to finish.

        What is compared waits for `finish`: compared too early, it proves nothing.
        """
        if self._left and not self._compare:
            self._help(on_done)

    def finish(self) -> None:
        """Do what is left, here and in the helping thread."""
        if self._helper is None and len(self._left) > 1:
            self._help(lambda: None)
        try:
            self._work_off()
        finally:  # whatever interrupts this thread, the other one must not go on writing
            if self._helper is not None:
                self._helper.join()

    def held(self) -> bool:
        """Whether every tensor stayed as it was; asked once, when it is `done`."""
        untouched = all(version() == before for version, before in self._versions)
        good = self.is_whole and not self._failed and untouched
        return good and all(_same(*sample) for sample in self._samples)

    def _help(self, on_done: Callable[[], None]) -> None:
        def help_out() -> None:
            if self._work_off():
                on_done()

        self._helper = threading.Thread(target=help_out, daemon=True)
        self._helper.start()

    def _work_off(self) -> bool:
        """Take tasks until none is left; whether this thread finished the last one."""
        last = False
        while True:
            try:
                task = self._left.popleft()
            except IndexError:
                return last
            try:
                good = task()
            except Exception as error:  # whoever asks what became of the snapshot is told
                good, self.failure = False, error
            with self._counting:
                self._failed = self._failed or not good
                self._open -= 1
                last = self._open == 0


def _copied(target: Bytes, source: Bytes) -> bool:
    import numpy as np

    np.copyto(target, source)  # releases the GIL
    return True


def _same(target: Bytes, source: Bytes) -> bool:
    import numpy as np

    return bool(np.array_equal(target, source))


def _same_as_read(target: Bytes, source: TensorSource) -> bool:
    return _same(target, source.read())


def _waited(wait: Callable[[], None]) -> bool:
    wait()
    return True


class _Staging:
    """Sorts the tensors of one snapshot: what is copied now, and what while training goes on."""

    def __init__(self, slot: Slot, versions: Versions, *, compare: bool) -> None:
        self._slot = slot
        self._known = versions
        self._compare = compare and bool(versions)  # where nothing is fenced nothing can be compared
        self._small: list[tuple[int, Bytes]] = []
        self._now: list[Task] = []
        self._later: list[Task] = []
        self._versions: list[Callable[[], int]] = []
        self._samples: list[tuple[Bytes, Bytes]] = []
        self._device: dict[Any, list[DeviceCopy]] = {}

    def on_host(self, data: Bytes, offset: int) -> None:
        """Take a tensor whose bytes are in host memory."""
        if len(data) < SMALL_BYTES:
            self._small.append((offset, data))
            return
        target = self._slot.memory[offset : offset + len(data)]
        pieces = list(_cut(target, data))
        version = self._known.get((data.__array_interface__["data"][0], len(data)))
        copies = [partial(_copied, *piece) for piece in pieces]
        if version is None or self._compare:
            self._now += copies
        if version is not None:
            self._versions.append(version)
            self._later += [partial(_same, *piece) for piece in pieces] if self._compare else copies
            seeds = range(offset, offset + len(pieces))
            self._samples += [_sampled(*piece, seed) for piece, seed in zip(pieces, seeds, strict=True)]

    def on_device(self, source: DeviceSource, offset: int) -> None:
        """Take a tensor that its device copies."""
        target = self._slot.memory[offset : offset + source.spec.size_bytes]
        version = self._known.get((source.address, source.spec.size_bytes))
        held = version is not None and not self._compare
        self._device.setdefault(source.begin, []).append(DeviceCopy(source, target, held))
        if version is not None:
            self._versions.append(version)
            if self._compare:
                self._later.append(partial(_same_as_read, target, source))

    def fence(self, device_bytes: int | None) -> Fence:
        """Copy what cannot wait; the rest."""
        waits: list[Task] = [
            partial(_waited, begin(copies, self._slot.memory, device_bytes))
            for begin, copies in self._device.items()
        ]
        if self._compare:
            self._now += waits
        else:
            self._later = waits + self._later
        now = Fence(self._now)
        now.finish()
        if now.failure is not None:
            raise now.failure
        _gather(self._slot, self._small)
        return Fence(self._later, self._versions, self._samples, compare=self._compare)


def stage(
    sources: Mapping[str, TensorSource],
    places: Mapping[str, Place],
    slot: Slot,
    versions: Versions,
    *,
    compare: bool,
    device_bytes: int | None = None,
) -> Fence:
    """Copy to the slot at once what may change in the next moment, and begin to copy the rest.

    Parameters
    ----------
    versions : mapping
        Says what may be copied behind the fence.
    compare : bool
        Copy all of it at once, and have the fence compare.
    device_bytes : int, optional
        What may be taken of a device's memory for second copies.

    Returns
    -------
    Fence
        Not begun. Until it is done the snapshot is not complete.
    """
    staging = _Staging(slot, versions, compare=compare)
    for name, source in sources.items():
        if places[name].offset == LEFT_OUT:
            continue
        if hasattr(source, "begin"):
            staging.on_device(cast("DeviceSource", source), places[name].offset)
        else:
            staging.on_host(source.read(), places[name].offset)
    return staging.fence(device_bytes)


def _sampled(target: Bytes, data: Bytes, seed: int) -> tuple[Bytes, Bytes]:
    """A few bytes from somewhere in a piece; the same place in it at every save, another in each."""
    start = seed * 2654435761 % max(len(data) - SAMPLE_BYTES, 1)  # Knuth's multiplicative hash
    return target[start : start + SAMPLE_BYTES], data[start : start + SAMPLE_BYTES].copy()


def _cut(target: Bytes, data: Bytes) -> Iterator[tuple[Bytes, Bytes]]:
    for start in range(0, len(data), PIECE_BYTES):
        yield target[start : start + PIECE_BYTES], data[start : start + PIECE_BYTES]


def _gather(slot: Slot, small: Sequence[tuple[int, Bytes]]) -> None:
    """Write tensors that lie end to end, many with one call: no Python for each."""
    for start in range(0, len(small), GATHERED):
        group = small[start : start + GATHERED]
        buffers: list[Any] = [data for _, data in group]
        written = os.pwritev(slot.descriptor, buffers, group[0][0]) if buffers else 0
        if written != sum(map(len, buffers)):  # the memory was taken before: it cannot run out
            raise RuntimeError("shared memory took only a part of what was written")
