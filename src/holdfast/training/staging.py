"""Copying a snapshot into shared memory, by threads that hold Python up as little as can be.

What only an optimizer's step changes is copied behind the forward and backward pass: the fence. The
next step waits for what is left. Everything else is copied before training goes on.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from holdfast.domain.tensors import TensorSource
from holdfast.node.arena import SMALL_BYTES, Place, Slot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

Versions = Mapping[int, Callable[[], int]]
"""Address of memory that only a step changes → its version, which most other changes move."""
PIECE_BYTES = 8 * 1024 * 1024
SAMPLE_BYTES = 1024
GATHERED = 1000
"""Buffers that one system call takes; Linux allows 1024."""


class Fence:
    """Copies that are made while training goes on, up to the optimizer's next step.

    Parameters
    ----------
    pieces : sequence of (target, source)
        What to copy, or (``compare``) what must still be the same.
    versions : sequence of callable
        Of every tensor that the pieces are of.
    samples : sequence of (target, bytes)
        Some of the bytes as they were when the fence opened: that the copy must agree.
    compare : bool
        The copies are made already: see whether the live bytes are still those.
    """

    def __init__(
        self,
        pieces: Sequence[tuple[Bytes, Bytes]],
        versions: Sequence[Callable[[], int]] = (),
        samples: Sequence[tuple[Bytes, Bytes]] = (),
        *,
        compare: bool = False,
    ) -> None:
        self._left = deque(pieces)
        self._open = len(pieces)
        self._counting = threading.Lock()
        self._compare = compare
        self._versions = [(version, version()) for version in versions]
        self._samples = samples
        self._failed = False
        self._helper: threading.Thread | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to copy or compare."""
        return self._open == 0

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
        self._work_off()
        if self._helper is not None:
            self._helper.join()

    def held(self) -> bool:
        """Whether every tensor stayed as it was; asked once, when it is `done`."""
        untouched = all(version() == before for version, before in self._versions)
        return not self._failed and untouched and all(_same(*sample) for sample in self._samples)

    def _help(self, on_done: Callable[[], None]) -> None:
        def help_out() -> None:
            if self._work_off():
                on_done()

        self._helper = threading.Thread(target=help_out, daemon=True)
        self._helper.start()

    def _work_off(self) -> bool:
        """Take pieces until none is left; whether this thread finished the last one."""
        last = False
        while True:
            try:
                target, source = self._left.popleft()
            except IndexError:
                return last
            good = _same(target, source) if self._compare else _copied(target, source)
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


def stage(
    sources: Mapping[str, TensorSource],
    places: Mapping[str, Place],
    slot: Slot,
    versions: Versions,
    *,
    compare: bool,
) -> Fence:
    """Copy to the slot at once what may change in the next moment, and begin to copy the rest.

    Parameters
    ----------
    versions : mapping
        Says what may be copied behind the fence.
    compare : bool
        Copy all of it at once, and have the fence compare.

    Returns
    -------
    Fence
        Not begun. Until it is done the snapshot is not complete.
    """
    small: list[tuple[int, Bytes]] = []
    now: list[tuple[Bytes, Bytes]] = []
    later: list[tuple[Bytes, Bytes]] = []
    watched: list[Callable[[], int]] = []
    samples: list[tuple[Bytes, Bytes]] = []
    for name, source in sources.items():
        place = places[name]
        data = source.read()
        if len(data) < SMALL_BYTES:
            small.append((place.offset, data))
            continue
        target = slot.memory[place.offset : place.offset + len(data)]
        pieces = _cut(target, data)
        version = versions.get(data.__array_interface__["data"][0])
        if version is None:
            now += pieces
        else:
            watched.append(version)
            later += pieces
            samples.append(_sampled(target, data, place.offset))
    Fence(now + later if compare else now).finish()
    _gather(slot, small)
    return Fence(later, watched, samples, compare=compare)


def _sampled(target: Bytes, data: Bytes, seed: int) -> tuple[Bytes, Bytes]:
    """A few bytes from somewhere in a tensor; the same place in it at every save, another in each."""
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
