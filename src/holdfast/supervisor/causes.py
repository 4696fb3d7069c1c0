"""Why a launch ended: a pure function of what was seen of it."""

from __future__ import annotations

import errno
import signal
from collections.abc import Sequence
from enum import StrEnum
from itertools import chain

import msgspec

from holdfast.node.pulse import Ending


class Cause(StrEnum):
    """What ends a launch; the rules say what is done for each."""

    FINISHED = "finished"
    PREEMPTED = "preempted"
    INTERRUPTED = "interrupted"
    CRASH = "crash"
    EXCEPTION = "exception"
    HOST_MEMORY = "host-memory"
    DEVICE_MEMORY = "device-memory"
    HANG = "hang"
    DISK_FULL = "disk-full"
    STORAGE = "storage"
    DAMAGED = "damaged"
    NOT_FINITE = "not-finite"
    EXPLOSION = "explosion"
    UNHEALTHY = "unhealthy"
    CONFIGURATION = "configuration"
    TAKEN = "taken"
    NODE_LOST = "node-lost"


JUDGED = frozenset({Cause.HANG, Cause.NOT_FINITE, Cause.EXPLOSION})
"""For what the supervisor ends a launch on its own judgement."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a launch.

    Attributes
    ----------
    code : int
        Its exit code; negative for a signal.
    stopped_for : Cause or None
        Why the supervisor itself has ended it.
    entered : bool
        Whether it came as far as a Checkpointer.
    steps : int
        Those that it counted.
    first : bool
        Whether it is the supervisor's first launch: nothing is known to have ever worked.
    ended : str or None
        As it recorded itself how it ended.
    ending : Ending or None
        The exception by which it left.
    lost_terminal : bool
        Whether its terminal went away meanwhile, so that printing failed.
    kills : int
        How often the kernel killed for want of memory meanwhile.
    ranks : int
        How many were started.
    rank : int or None
        Of which of them the rest is, where that is the one that failed first.
    """

    code: int
    stopped_for: Cause | None = None
    entered: bool = False
    steps: int = 0
    first: bool = False
    ended: str | None = None
    ending: Ending | None = None
    lost_terminal: bool = False
    kills: int = 0
    ranks: int = 1
    rank: int | None = None


_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_KINDS = {
    "usage": Cause.CONFIGURATION,
    "not-found": Cause.CONFIGURATION,
    "mismatch": Cause.CONFIGURATION,
    "changed": Cause.CONFIGURATION,
    "unsupported": Cause.CONFIGURATION,
    "format": Cause.CONFIGURATION,
    "damaged": Cause.DAMAGED,
    "poisoned": Cause.DAMAGED,
    "busy": Cause.TAKEN,
    "superseded": Cause.TAKEN,
    "storage": Cause.STORAGE,
    "unhealthy": Cause.UNHEALTHY,
    "rank": Cause.NODE_LOST,
}
_OF_SIGNALS = {signal.SIGTERM: Cause.PREEMPTED, signal.SIGINT: Cause.INTERRUPTED}
_SIGNAL_NAMES = frozenset(number.name for number in _OF_SIGNALS)
_NEVER_RAN = frozenset({"ImportError", "SyntaxError"})
_CONNECTION_TYPES = {"DistNetworkError", "DistBackendError", "RendezvousError", "ConnectionError"}
_CONNECTION_WORDS = ("connection closed by peer", "connection reset by peer", "connection refused")
_DEVICE_WORDS = ("out of memory", "resourceexhausted")


def classify(seen: Evidence) -> Cause:
    """Tell the cause; the first that fits, from what is known for sure to what is not."""
    if seen.code == 0 and not _is_cut_short(seen):
        return Cause.FINISHED
    if seen.stopped_for is not None:
        return seen.stopped_for
    number = signal_of(seen.code)
    if seen.ranks > 1 and number in (signal.SIGKILL, signal.SIGHUP):
        return Cause.NODE_LOST  # of the launcher
    if seen.ended in _SIGNAL_NAMES:
        return _OF_SIGNALS[signal.Signals[seen.ended]]
    if number is not None:
        return _of_signal(number, seen)
    if seen.code == 0:
        return _of_signal(signal.SIGKILL, seen)
    if seen.ending is not None and (cause := _of_exception(seen.ending, seen)) is not None:
        return cause
    never_worked = seen.first and not seen.entered and not seen.lost_terminal
    return Cause.CONFIGURATION if never_worked else Cause.EXCEPTION


def _is_cut_short(seen: Evidence) -> bool:
    """Whether the trainer was told to end, or died, though a shell or a pipe around it ends with 0."""
    left = seen.ended is not None or seen.ending is not None
    return seen.ended in _SIGNAL_NAMES or (seen.entered and not left)


def first_to_fail(ranks: Sequence[Evidence]) -> Evidence:
    """Of the ends of several ranks the one that is the others' cause: they meet errors of connections then.

    One that left by an exception of its own comes first, then one that left no word, being killed.
    """
    if ranks[0].code == 0:  # of a pipe around them, perhaps
        cut_short = sorted(filter(_is_cut_short, ranks), key=lambda rank: rank.ended is not None)
        return msgspec.structs.replace((cut_short or ranks)[0], rank=None)
    if len(ranks) == 1 or ranks[0].stopped_for is not None:
        return msgspec.structs.replace(ranks[0], rank=None)
    lost = (Cause.NODE_LOST, *_OF_SIGNALS.values())
    raised = (r for r in ranks if r.ending is not None and classify(r) not in lost)
    silent = [
        msgspec.structs.replace(r, code=-signal.SIGKILL, ranks=1)
        for r in ranks
        if r.entered and r.ended is None and r.ending is None
    ]
    if len(silent) > 1:  # launchers kill the others: which was the first is not known
        silent = [msgspec.structs.replace(r, rank=None) for r in silent]
    return next(chain(raised, silent), msgspec.structs.replace(ranks[0], rank=None))


def signal_of(code: int) -> int | None:
    """The signal that an exit code tells of: as the kernel tells it, or a shell."""
    number = -code if code < 0 else code - 128
    return number if 0 < number < signal.NSIG else None


def _of_signal(number: int, seen: Evidence) -> Cause:
    if number == signal.SIGKILL and seen.kills:
        return Cause.HOST_MEMORY
    return _OF_SIGNALS.get(signal.Signals(number), Cause.CRASH) if number in _KNOWN else Cause.CRASH


_KNOWN = frozenset(int(number) for number in signal.Signals)


def _of_exception(ending: Ending, seen: Evidence) -> Cause | None:
    if ending.errno in _FULL:
        return Cause.DISK_FULL
    if ending.kind is not None:
        return _OF_KINDS.get(ending.kind)
    if _is_of_device(ending):
        return Cause.DEVICE_MEMORY
    if "MemoryError" in ending.types:
        return Cause.HOST_MEMORY
    if seen.ranks > 1 and _is_of_connection(ending):
        return Cause.NODE_LOST
    if "FloatingPointError" in ending.types:
        return Cause.NOT_FINITE
    if seen.first and not seen.steps and _NEVER_RAN & set(ending.types):
        return Cause.CONFIGURATION
    return None


def _is_of_connection(ending: Ending) -> bool:
    """Whether a collective found another rank gone; gloo has sentences for that."""
    words = ending.message.lower()
    return bool(_CONNECTION_TYPES & set(ending.types)) or any(word in words for word in _CONNECTION_WORDS)


def _is_of_device(ending: Ending) -> bool:
    """Whether a device had too little memory; torch has a class for that, Paddle a sentence."""
    words = ending.message.lower()
    spoken = "RuntimeError" in ending.types or "SystemError" in ending.types
    return "OutOfMemoryError" in ending.types or (spoken and any(word in words for word in _DEVICE_WORDS))


def told(seen: Evidence, cause: Cause) -> str:
    """What is to be said of the cause, in a few words."""
    if cause in JUDGED and seen.stopped_for is cause:
        return ""
    if seen.ended in _SIGNAL_NAMES:
        return seen.ended
    if seen.ending is not None and seen.ending.types:
        return f"{seen.ending.types[0]}: {seen.ending.message}".rstrip(": ").partition("\n")[0][:300]
    number = signal_of(seen.code)
    if number in _KNOWN:
        return signal.Signals(number).name
    if seen.code == 0:
        return "it died, though the command around it ended with 0"
    return f"exit code {seen.code}"
