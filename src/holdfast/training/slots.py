"""The memory that an attempt's snapshots take: made when needed, used again, bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator

from holdfast.node.arena import Slot
from holdfast.node.memory import SPARE_BYTES, available_bytes

IN_FLIGHT = 2
WITH_SNAPSHOTS = IN_FLIGHT + 2
"""Where snapshots stay in memory: the newest, and the one being copied."""
_STEP_BYTES = 2 * 1024 * 1024


class Slots:
    """Slots by number.

    Parameters
    ----------
    on_new : callable
        Called with number and slot of each that is made.
    limit : int
        How many there may be; fewer where memory lacks.
    slots : iterable of Slot
        Those that there are already.
    """

    def __init__(self, on_new: Callable[[int, Slot], None], limit: int, slots: Iterable[Slot] = ()) -> None:
        self._on_new = on_new
        self._slots = list(slots)
        self._ahead: _Ahead | None = None
        self.limit = limit

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    def __iter__(self) -> Iterator[tuple[int, Slot]]:
        return iter(enumerate(self._slots))

    def take(self, busy: Collection[int], need_bytes: int, spared: int | None = None) -> int | None:
        """A slot of this size that is not busy; None if one has to become free first.

        Parameters
        ----------
        spared : int, optional
            A slot that is used only if no other one is there.

        Raises
        ------
        MemoryError
            There is no memory for even one; says how many bytes it takes.
        """
        free = sorted((n for n, _ in self if n not in busy), key=lambda number: number == spared)
        fitting = [number for number in free if self._slots[number].size_bytes >= need_bytes]
        if fitting:
            return fitting[0]
        if not free and len(self._slots) >= self.limit:
            return None
        number = free[0] if free else len(self._slots)
        slot = self._made(need_bytes)
        if slot is None and free and not busy:  # all the memory there is may be that of what is outgrown
            self._slots[number].give_back()
            slot = self._made(need_bytes)
        if slot is not None:
            for outgrown in self._slots[number : number + 1]:
                outgrown.close()
            self._slots[number:] = [slot, *self._slots[number + 1 :]]
            self._on_new(number, slot)
            return number
        if not busy:
            raise MemoryError(room_bytes(need_bytes))
        self.limit = max(len(busy), 1)  # fewer saves at once will do
        return None

    def prepare(self, busy: Collection[int], need_bytes: int) -> None:
        """Make another slot ahead, behind training, unless one is free or there may be no more."""
        if self._ahead is None and len(self._slots) < self.limit and len(busy) >= len(self._slots):
            self._ahead = _Ahead(room_bytes(need_bytes))

    def _made(self, need_bytes: int) -> Slot | None:
        """A new slot: the one that was made ahead if it will do."""
        ahead, self._ahead = self._ahead, None
        slot = ahead.slot() if ahead is not None else None
        if slot is None or slot.size_bytes >= need_bytes:
            return slot or _created(room_bytes(need_bytes))
        slot.close()
        return _created(room_bytes(need_bytes))

    def close(self) -> None:
        """Let go of all of them."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and (slot := ahead.slot()) is not None:
            slot.close()
        for slot in self._slots:
            slot.close()
        self._slots = []


class _Ahead:
    """A slot that is made while training goes on."""

    def __init__(self, size_bytes: int) -> None:
        self._slot: Slot | None = None
        self._thread = threading.Thread(target=self._make, args=(size_bytes,), daemon=True)
        self._thread.start()

    def _make(self, size_bytes: int) -> None:
        self._slot = _created(size_bytes)

    def slot(self) -> Slot | None:
        """Wait for it; None if there was no memory for it."""
        self._thread.join()
        return self._slot


def room_bytes(need_bytes: int) -> int:
    """What a slot takes up for so much. Records grow: so does the room, ahead."""
    return (need_bytes // _STEP_BYTES + 2) * _STEP_BYTES


def _created(size_bytes: int) -> Slot | None:
    try:
        return Slot.create(size_bytes) if available_bytes() >= size_bytes + SPARE_BYTES else None
    except OSError:
        return None
