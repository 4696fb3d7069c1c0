"""How an attempt ended, in a few words."""

from __future__ import annotations

import signal

from holdfast.errors import message_of
from holdfast.repository.run import Run
from holdfast.training.loops import Loops
from holdfast.training.restoring import Restored


def cause_of(
    error: BaseException | None,
    leaving: signal.Signals | None,
    run: Run,
    loops: Loops,
    restored: Restored | None,
    turns: int,
) -> str:
    """Why training is over: a signal, an exception, somebody's wish, or because it was done.

    Parameters
    ----------
    turns : int
        How many this attempt has seen.
    """
    if leaving is not None:
        return leaving.name
    if error is not None:
        return f"{type(error).__name__}: {message_of(error)}".rstrip(": ")[:500]
    nothing = _why_nothing_was_done(run, loops, restored) if not turns else None
    return nothing or loops.stopped or "finished"


def _why_nothing_was_done(run: Run, loops: Loops, restored: Restored | None) -> str | None:
    if restored is None or not loops.unmoved:
        return None
    if not loops.asked and not run.had_ended(restored.id.attempt):
        return None
    how = f"been stopped already ({loops.stopped})" if loops.stopped else "finished already"
    return f"it had {how}; more epochs or steps would continue it"
