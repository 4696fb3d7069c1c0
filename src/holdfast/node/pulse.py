"""The pulse of a trainer: a page of memory that its supervisor gave it and reads, written at every step.

A few stores a step and no system call. The page is an anonymous file of the supervisor, which the
trainer finds below /proc: it needs no folder, leaves nothing behind, and passes through any wrapper.
"""

from __future__ import annotations

import faulthandler
import json
import math
import mmap
import os
import re
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import IntEnum
from pathlib import Path

import msgspec

from holdfast.errors import HoldfastError, message_of

PLACE_VARIABLE = "HOLDFAST_PULSE"
RANKS_VARIABLE = "HOLDFAST_PULSE_RANKS"
"""Places of the pages of ranks from 1 on, joined by commas."""
STACKS_SIGNAL = int(signal.SIGRTMIN) + 7 if hasattr(signal, "SIGRTMIN") else 0
"""Asks a trainer to write down where all its threads are; nobody else uses it."""
PAGE_BYTES = 16 * 1024
"""What follows in the file are stacks."""
_STORY_AT = 1024
_MAGIC = 0x31_45_53_4C_55_50_46_48  # "HFPULSE1"
_WORDS = _STORY_AT // 8
_IS, _PID, _PHASE, _SINCE, _BEATS, _STEP, _STEPS_HERE, _NOT_FINITE, _STORY_BYTES, _LOSS, _FIRST_STEP = range(
    11
)
_LONGEST = 16
_ORPHAN_LOOK_NS = 1_000_000_000
"""Between two looks whether the supervisor is still there."""


class Phase(IntEnum):
    """What a trainer is at; each has a patience of its own."""

    STARTING = 0
    COMPILING = 1
    STEPPING = 2
    EVALUATING = 3
    SAVING = 4
    ENDING = 5


class Ending(msgspec.Struct, frozen=True):
    """The exception by which a trainer leaves.

    Attributes
    ----------
    types : tuple[str, ...]
        Names of its class and of those that it derives from.
    kind : str or None
        Of Holdfast's own errors.
    errno : int or None
    message : str
    """

    types: tuple[str, ...]
    message: str
    kind: str | None = None
    errno: int | None = None

    @classmethod
    def of(cls, error: BaseException) -> Ending:
        types = tuple(t.__name__ for t in type(error).__mro__)
        kind = error.kind if isinstance(error, HoldfastError) else None
        number = getattr(error, "errno", None)
        return cls(types, message_of(error)[:1000], kind, number if isinstance(number, int) else None)


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What a trainer says of itself, when it changes.

    Attributes
    ----------
    location, run : str
        Where its checkpoints go.
    resumed : int or None
        The step that it went on from; None for a fresh start.
    ended : str or None
        As in the ``.end`` of its attempt.
    ending : Ending or None
    """

    location: str = ""
    run: str = ""
    resumed: int | None = None
    ended: str | None = None
    ending: Ending | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The page at one moment.

    Attributes
    ----------
    pid : int
        The trainer's; 0 before it has entered a Checkpointer.
    beats : int
        Grows with everything it does.
    step, steps_here : int
        The run's; those that this launch counted.
    not_finite : int
        Steps in a row whose loss was not finite, as far as that was to be had without waiting.
    first_step_seconds : float or None
        When it had counted one, on the monotonic clock.
    longest_seconds : tuple[float, ...]
        By phase, the longest time spent in it at a stretch.
    """

    pid: int = 0
    phase: Phase = Phase.STARTING
    beats: int = 0
    step: int = 0
    steps_here: int = 0
    not_finite: int = 0
    loss: float | None = None
    first_step_seconds: float | None = None
    longest_seconds: tuple[float, ...] = (0.0,) * len(Phase)


class Page:
    """The supervisor's side: an anonymous file for one launch.

    Parameters
    ----------
    place : str, optional
        That of another process, to look into; it stays readable when that process is dead.

    Raises
    ------
    OSError, ValueError
        There is no page at this place.
    """

    def __init__(self, place: str | None = None) -> None:
        self._descriptor = _new_page() if place is None else os.open(place, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._descriptor, PAGE_BYTES)
        self._words = memoryview(self._map)[:_STORY_AT].cast("q")
        self._numbers = memoryview(self._map)[:_STORY_AT].cast("d")

    @property
    def place(self) -> str:
        """What a trainer is told, for as long as this process lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def look(self) -> Seen:
        return _seen(self._words, self._numbers)

    def story(self) -> Story:
        """What the trainer last said of itself."""
        return _story(self._words, self._map)

    def stacks(self) -> str:
        """Everything that was written down of its threads."""
        size = os.fstat(self._descriptor).st_size - PAGE_BYTES
        return os.pread(self._descriptor, max(size, 0), PAGE_BYTES).decode(errors="replace")

    def close(self) -> None:
        self._words.release()
        self._numbers.release()
        self._map.close()
        os.close(self._descriptor)


def place_of(pid: int) -> str | None:
    """The page that a process was told of; None if it was not, or may not be asked."""
    begin = f"{PLACE_VARIABLE}=".encode()
    with suppress(OSError):
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        return next((word[len(begin) :].decode() for word in words if word.startswith(begin)), None)
    return None


def glance(place: str) -> Seen | None:
    """A page as anybody sees it who may read the supervisor's files; None if there is none."""
    if re.fullmatch(r"/proc/[0-9]+/fd/[0-9]+", place) is None:
        return None
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        is_page = stat.S_ISREG(os.fstat(descriptor).st_mode)
        data = memoryview(os.pread(descriptor, _STORY_AT, 0) if is_page else b"")
    finally:
        os.close(descriptor)
    return _seen(data.cast("q"), data.cast("d")) if len(data) == _STORY_AT else None


def _seen(w: memoryview[int], numbers: memoryview[float]) -> Seen:
    if w[_IS] != _MAGIC:
        return Seen()
    loss = numbers[_LOSS]
    return Seen(
        pid=w[_PID],
        phase=Phase(w[_PHASE]) if 0 <= w[_PHASE] < len(Phase) else Phase.STARTING,
        beats=w[_BEATS],
        step=w[_STEP],
        steps_here=w[_STEPS_HERE],
        not_finite=w[_NOT_FINITE],
        first_step_seconds=w[_FIRST_STEP] / 1e9 if w[_FIRST_STEP] else None,
        loss=loss if math.isfinite(loss) else None,
        longest_seconds=tuple(w[_LONGEST + phase] / 1e9 for phase in Phase),
    )


def _story(words: memoryview[int], page: mmap.mmap) -> Story:
    size = min(max(words[_STORY_BYTES], 0), PAGE_BYTES - _STORY_AT)
    try:
        return msgspec.convert(json.loads(page[_STORY_AT : _STORY_AT + size]), Story)
    except (ValueError, msgspec.ValidationError):  # nothing yet, or half of it
        return Story()


def _new_page() -> int:
    descriptor = os.memfd_create("holdfast-pulse", os.MFD_CLOEXEC)
    os.truncate(descriptor, PAGE_BYTES)
    return descriptor


class Pulse:
    """The trainer's side.

    Parameters
    ----------
    place : str
        The supervisor's file.

    Raises
    ------
    OSError
        It cannot be opened, or is none.

    Attributes
    ----------
    watched : bool
        Whether a supervisor looks at it.
    """

    watched = True

    def __init__(self, place: str) -> None:
        descriptor = os.open(place, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(descriptor).st_size < PAGE_BYTES:
            os.close(descriptor)
            raise OSError(f"{place} holds no page")
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        self._words = memoryview(self._map)[:_STORY_AT].cast("q")
        self._numbers = memoryview(self._map)[:_STORY_AT].cast("d")
        self._compiled = False
        self._place = place
        self._looks_at: float = time.monotonic_ns() + _ORPHAN_LOOK_NS
        os.lseek(descriptor, max(os.fstat(descriptor).st_size, PAGE_BYTES), os.SEEK_SET)
        faulthandler.register(
            STACKS_SIGNAL, file=descriptor, all_threads=True
        )  # keeps it open, works when stuck
        self._begin_anew()
        self._words[_PID] = os.getpid()
        self._words[_SINCE] = time.monotonic_ns()
        self._words[_IS] = _MAGIC

    def _begin_anew(self) -> None:
        """Of a process before this one of the same launch only its steps count, not what it was at."""
        self._words[_PHASE] = Phase.STARTING
        self._words[_NOT_FINITE] = 0
        self._tell(msgspec.structs.replace(_story(self._words, self._map), ended=None, ending=None))

    def enter(self, phase: Phase) -> None:
        """Something was done; ``phase`` comes next."""
        w, now = self._words, time.monotonic_ns()
        spent, longest = now - w[_SINCE], _LONGEST + w[_PHASE]
        w[longest] = max(w[longest], spent)
        w[_SINCE] = now
        w[_PHASE] = phase
        w[_BEATS] += 1

    def turn(self) -> None:
        """A turn begins; in the first one everything may be compiled."""
        self.enter(Phase.STEPPING if self._compiled else Phase.COMPILING)
        if self._words[_SINCE] > self._looks_at:
            self._end_if_orphaned()

    def _end_if_orphaned(self) -> None:
        """Ask this process to end if its supervisor is dead: the kernel tells only a wrapper between them."""
        self._looks_at = self._words[_SINCE] + _ORPHAN_LOOK_NS
        try:
            os.lstat(self._place)
        except FileNotFoundError:
            self._looks_at = math.inf  # once
            os.kill(os.getpid(), signal.SIGTERM)
        except OSError:
            pass  # nothing is known

    def stepped(self, step: int, loss: float | None) -> None:
        """A step is counted; its loss, if it is known by now."""
        w = self._words
        w[_STEP] = step
        w[_STEPS_HERE] += 1
        w[_FIRST_STEP] = w[_FIRST_STEP] or time.monotonic_ns()
        self._compiled = True
        if loss is not None:
            self._numbers[_LOSS] = loss
            w[_NOT_FINITE] = 0 if math.isfinite(loss) else w[_NOT_FINITE] + 1
        self.enter(Phase.EVALUATING)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """While this lasts, the trainer saves."""
        before = Phase(self._words[_PHASE])
        self.enter(Phase.SAVING)
        try:
            yield
        finally:
            self.enter(before)

    def begins(self, location: str, run: str, resumed: int | None) -> None:
        """The trainer has restored its state, or starts afresh."""
        self._words[_STEP] = resumed or 0
        self._tell(Story(location=location, run=run, resumed=resumed))
        self.enter(Phase.COMPILING)

    def ends(self, cause: str | None, error: BaseException | None) -> None:
        """Its training is over; what follows has no steps."""
        ending = Ending.of(error) if error is not None else None
        self._tell(msgspec.structs.replace(self._story, ended=cause, ending=ending))
        self.enter(Phase.ENDING)

    def _tell(self, story: Story) -> None:
        self._story = story
        data = json.dumps(msgspec.to_builtins(story)).encode()  # ASCII, whatever is in a path or message
        if len(data) > PAGE_BYTES - _STORY_AT:
            return
        self._words[_STORY_BYTES] = 0  # nobody reads half of it
        self._map[_STORY_AT : _STORY_AT + len(data)] = data
        self._words[_STORY_BYTES] = len(data)


class Unwatched:
    """What a trainer writes to whom nobody listens."""

    watched = False

    def enter(self, phase: Phase) -> None:
        pass

    def turn(self) -> None:
        pass

    def stepped(self, step: int, loss: float | None) -> None:
        pass

    @contextmanager
    def saving(self) -> Iterator[None]:
        yield

    def begins(self, location: str, run: str, resumed: int | None) -> None:
        pass

    def ends(self, cause: str | None, error: BaseException | None) -> None:
        pass


def open_pulse(variables: Mapping[str, str], rank: int = 0) -> Pulse | Unwatched:
    """The page of this process's supervisor, if there is one for this rank and it can be reached."""
    further = variables.get(RANKS_VARIABLE, "").split(",")
    place = ([variables.get(PLACE_VARIABLE), *further][rank : rank + 1] or [None])[0]
    try:
        return Pulse(place) if place else Unwatched()
    except (OSError, ValueError):
        return Unwatched()  # in another container, say: a run that nobody watches is a run all the same
