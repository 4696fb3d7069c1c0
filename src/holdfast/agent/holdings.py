"""What an agent has in memory: the slots of a run, and which of them holds the newest snapshot."""

from __future__ import annotations

import time

import msgspec

from holdfast.errors import SupersededError
from holdfast.node.arena import Slot
from holdfast.node.messages import Done, Held, Inheritance, Kept, Staged


class _Newest(msgspec.Struct):
    """The snapshot that was staged last."""

    staged: Staged
    saving: bool
    checkpoint: str | None = None
    failed_at: float | None = None


class Holdings:
    """Slots by number, and the newest snapshot in them, which a successor of the trainer may take over."""

    def __init__(self) -> None:
        self._slots: dict[int, Slot] = {}
        self._newest: _Newest | None = None
        self._lost: str | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, number: int) -> bool:
        return number in self._slots

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    @property
    def any_kept(self) -> bool:
        """Whether a snapshot is held that a successor can use, or that is still to be made durable."""
        return self._newest is not None

    def seen(self, *, serving: bool) -> Held:
        """What there is, for those who look."""
        newest = self._newest
        return Held(
            sum(slot.size_bytes for slot in self._slots.values()),
            newest.staged.step if newest is not None else None,
            newest.checkpoint if newest is not None else None,
            serving,
        )

    def put(self, number: int, slot: Slot) -> None:
        """Take a slot; one that had this number before goes."""
        self.reclaimed(number)
        old = self._slots.get(number)
        self._slots[number] = slot
        if old is not None:
            old.close()

    def staged(self, staged: Staged) -> None:
        """A snapshot is complete: it is the newest now."""
        self._newest = _Newest(staged, saving=staged.durable)

    def reclaimed(self, number: int) -> None:
        """A slot is about to be written over."""
        if self._newest is not None and self._newest.staged.slot == number:
            self._newest = None

    def withdrawn(self, sequence: int) -> None:
        """A snapshot is wanted no more."""
        if self._newest is not None and self._newest.staged.sequence == sequence:
            self._newest = None

    def decided(self, done: Done) -> None:
        """Learn what became of a snapshot; called by the thread that saves."""
        newest = self._newest
        if newest is None or newest.staged.sequence != done.sequence:
            return
        newest.saving, newest.checkpoint = False, done.checkpoint
        if done.failure is not None:
            newest.failed_at, self._lost = time.monotonic(), done.failure.what
            if done.failure.kind == SupersededError.kind:
                self._newest = None

    def take_unsaved(self, *, failed_seconds_ago: float) -> tuple[Staged, Slot] | None:
        """The newest snapshot if nobody makes it durable: the caller does, from now on.

        Parameters
        ----------
        failed_seconds_ago : float
            How long to leave one alone that could not be made durable.
        """
        newest = self._newest
        if newest is None or newest.saving or newest.checkpoint is not None:
            return None
        if newest.failed_at is not None and time.monotonic() < newest.failed_at + failed_seconds_ago:
            return None
        newest.saving = True
        return newest.staged, self._slots[newest.staged.slot]

    def inheritance(self, *, alone: bool) -> tuple[Inheritance, list[int]]:
        """What a successor gets, and the descriptors that go with it; what is not durable stays behind.

        Parameters
        ----------
        alone : bool
            Nobody else may still write to this memory; else it goes to nobody.
        """
        lost = self._lost if self.drop_unsaved() else None
        if not alone:
            self.clear()
        return Inheritance(self._kept(), lost), [self._slots[n].descriptor for n in sorted(self._slots)]

    def _kept(self) -> Kept | None:
        if self._newest is None or self._newest.checkpoint is None:
            return None
        staged = self._newest.staged
        return Kept(self._newest.checkpoint, staged.slot, staged.start, staged.size_bytes)

    def drop_unsaved(self) -> bool:
        """Forget a newest snapshot that is not durable: nobody can resume from it any more."""
        if self._newest is None or self._newest.checkpoint is not None:
            return False
        self._newest = None
        return True

    def clear(self) -> None:
        """Let go of all memory."""
        self._newest = None
        for slot in self._slots.values():
            slot.close()
        self._slots.clear()
