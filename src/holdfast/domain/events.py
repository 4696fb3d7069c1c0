"""What happens to a run, as values; whoever shows or counts them subscribes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from holdfast.domain.progress import Progress


class Event(msgspec.Struct, frozen=True):
    """Something that happened; ``str`` gives the sentence for people."""

    run: str


class Launched(Event, frozen=True):
    """An attempt has begun: fresh, or restored.

    Attributes
    ----------
    location, repository : str
        Where the repository is, and its id.
    attempt, first_attempt : str
        This one; the one whose training all of the line goes on from.
    step : int
        Steps counted so far.
    config : dict[str, Any]
        What the script gave as ``config``, flattened.
    """

    location: str
    repository: str
    attempt: str
    first_attempt: str
    step: int
    config: dict[str, Any]

    def __str__(self) -> str:
        return f"run {self.run} has begun its attempt {self.attempt}"


class Reported(Event, frozen=True):
    """``report()`` was called; values as they were given.

    Attributes
    ----------
    step : int
        Steps counted so far.
    metrics : dict[str, Any]
    """

    step: int
    metrics: dict[str, Any]

    def __str__(self) -> str:
        return f"run {self.run} reported {', '.join(self.metrics)} at step {self.step}"


class Started(Event, frozen=True):
    """A run begins from nothing."""

    location: str
    attempt: str = ""

    def __str__(self) -> str:
        return f"run {self.run} starts; checkpoints go to {self.location}"


class Restored(Event, frozen=True):
    """The training state is that of a recovery point."""

    step: int
    progress: Progress
    seconds: float
    place: str | None = None
    attempt: str = ""

    def __str__(self) -> str:
        p = self.progress
        where = f"epoch {p.epoch}" + (f", batch {p.batch}" if p.batch else "")
        source = f" from {self.place}" if self.place is not None else ""
        how = f"restored{source} in {self.seconds:.2f} s"
        return f"run {self.run} resumes after step {self.step} ({where}), {how}"


class Rejected(Event, frozen=True):
    """A checkpoint was found damaged and stepped over."""

    step: int
    reason: str
    recorded: bool

    def __str__(self) -> str:
        quarantine = "quarantined" if self.recorded else "left as it is"
        return (
            f"WARNING: the checkpoint {self.run}@{self.step} cannot be used ({quarantine}); "
            f"going back to an older one.\n{self.reason}"
        )


class Saved(Event, frozen=True):
    """A checkpoint is durable.

    Attributes
    ----------
    checkpoint : str
        Its full name in the repository.
    metrics : dict[str, float]
        What was attached to it.
    burden_seconds : float
        What training paid for it.
    """

    step: int
    reason: str
    seconds: float
    size_bytes: int
    new_bytes: int
    checkpoint: str = ""
    metrics: dict[str, float] = {}
    burden_seconds: float = 0.0

    def __str__(self) -> str:
        return f"saved {self.run}@{self.step} ({self.reason}) in {self.seconds:.2f} s"


class Persisted(Event, frozen=True):
    """An agent has made a snapshot durable; its trainer may be dead by then."""

    attempt: str
    step: int
    checkpoint: str
    seconds: float
    size_bytes: int
    new_bytes: int

    def __str__(self) -> str:
        return f"{self.run}@{self.step} is durable after {self.seconds:.2f} s"


class SaveFailed(Event, frozen=True):
    """A save did not happen; training goes on."""

    step: int
    reason: str
    failures: int

    def __str__(self) -> str:
        times = f" ({self.failures} saves in a row)" if self.failures > 1 else ""
        return (
            f"WARNING: step {self.step} of {self.run} could not be saved{times}: {self.reason} "
            "Training goes on; saving resumes by itself once this is mended."
        )


class SavingResumed(Event, frozen=True):
    """Saves work again after failures."""

    step: int
    failures: int

    def __str__(self) -> str:
        return f"saving of {self.run} works again at step {self.step}, after {self.failures} failed saves"


class Warned(Event, frozen=True):
    """Something a person should know."""

    text: str

    def __str__(self) -> str:
        return f"WARNING: {self.text}"


class Found(Event, frozen=True):
    """Something about the health of training.

    Attributes
    ----------
    kind, detail : str
        What, by the name that rules have for it; and what was seen.
    action : str
        What is done about it.
    times : int
        How often it was found in this attempt; with ``warn`` the 1st, 2nd, 4th, 8th ... time is told.
    """

    step: int
    kind: str
    detail: str
    action: str
    times: int

    def __str__(self) -> str:
        often = f" ({self.times} so far)" if self.times > 1 else ""
        does = "" if self.action == "warn" else f" ({self.action})"
        return f"WARNING: {self.kind} at step {self.step} of {self.run}{often}: {self.detail}{does}"


class Ended(Event, frozen=True):
    """An attempt is over; ``done`` if its training came to its end."""

    step: int
    cause: str
    done: bool = False

    def __str__(self) -> str:
        return f"run {self.run} ends at step {self.step}: {self.cause}"


class Uploaded(Event, frozen=True):
    """What was saved until a round began is at a mirror.

    Attributes
    ----------
    checkpoints : int
        How many were new.
    backlog : int
        How many have come meanwhile, and are not there yet.
    """

    place: str
    checkpoints: int
    backlog: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.checkpoints} checkpoints of {self.run} are at {self.place} after {self.seconds:.1f} s"


class UploadFailed(Event, frozen=True):
    """A mirror could not be brought up to date; it is tried again."""

    place: str
    reason: str
    backlog: int
    failures: int

    def __str__(self) -> str:
        return f"WARNING: {self.place} lags {self.backlog} checkpoints of {self.run} behind: {self.reason}"


class LaunchBegan(Event, frozen=True):
    """A supervisor has started its command.

    Attributes
    ----------
    launch : int
        The supervisor's first is 1.
    resume : int or None
        Where it was told to go on; None: at the newest recovery point.
    """

    launch: int
    command: tuple[str, ...]
    resume: int | None = None

    def __str__(self) -> str:
        return f"launch {self.launch} has begun"


class Recovered(Event, frozen=True):
    """A launch after another has made its first step, so many seconds after the end of that one."""

    launch: int
    step: int
    seconds: float

    def __str__(self) -> str:
        return f"launch {self.launch} trains at step {self.step}, {self.seconds:.1f} s after the one before"


class LaunchAsked(Event, frozen=True):
    """A supervisor asks a launch to end."""

    launch: int
    step: int
    cause: str
    detail: str

    def __str__(self) -> str:
        return f"launch {self.launch} is asked to end: {self.cause} ({self.detail})"


class LaunchEnded(Event, frozen=True):
    """A launch is over, and what follows is decided.

    Attributes
    ----------
    launch : int
    cause, detail : str
        Why it ended.
    exit_code : int
    seconds : float
    resumed : int or None
        The step that it went on from.
    step, steps : int
        Its last one; how many it counted.
    lost_steps : int or None
        Those that it made again of the last launch before that trained.
    recovery_seconds : float or None
        From the end of the launch before to its first step.
    restarts : bool
        Whether there will be another.
    wait_seconds : float
        Until then.
    why : str
        If not: why nothing is tried any more.
    """

    launch: int
    cause: str
    detail: str
    exit_code: int
    seconds: float
    resumed: int | None
    step: int
    steps: int
    lost_steps: int | None
    recovery_seconds: float | None
    restarts: bool
    wait_seconds: float
    why: str

    def __str__(self) -> str:
        what = f"launch {self.launch} of {self.run or 'no run'} ended at step {self.step}: {self.cause}"
        return f"{what} ({self.detail})" if self.detail else what


Listener = Callable[[Event], None]


def unheard(event: Event) -> None:
    """Listens for nobody."""
