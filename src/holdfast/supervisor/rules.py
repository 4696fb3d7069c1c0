"""What is done for each cause: one table, which flags may change."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from holdfast.errors import UsageError
from holdfast.supervisor.causes import Cause


class Rule(msgspec.Struct, frozen=True):
    """What is done when a launch ends for one cause.

    Attributes
    ----------
    restarts : int
        How often in a row without the run getting further than before; 0 is never.
    wait_seconds : float
        Before the first of them; every further one waits twice as long, and at least a second.
    back_after : int
        Without getting further so often, each launch begins one recovery point earlier; 0 is never.
    """

    restarts: int = 0
    wait_seconds: float = 0.0
    back_after: int = 0

    def __str__(self) -> str:
        if not self.restarts:
            return "stop"
        words = f"restart {self.restarts}, wait {self.wait_seconds:g}"
        return words + (f", back {self.back_after}" if self.back_after else "")


RULES: Mapping[Cause, Rule] = {
    Cause.CRASH: Rule(5, 0.0, 2),
    Cause.EXCEPTION: Rule(3, 0.0, 2),
    Cause.HOST_MEMORY: Rule(3, 10.0),
    Cause.DEVICE_MEMORY: Rule(3, 5.0),
    Cause.HANG: Rule(5, 0.0, 2),
    Cause.DISK_FULL: Rule(20, 60.0),
    Cause.STORAGE: Rule(20, 10.0),
    Cause.DAMAGED: Rule(1, 10.0),
    Cause.NOT_FINITE: Rule(3, 0.0, 1),
    Cause.EXPLOSION: Rule(3, 0.0, 1),
    Cause.UNHEALTHY: Rule(3, 0.0, 1),
    Cause.NODE_LOST: Rule(10, 5.0),
    Cause.CONFIGURATION: Rule(),
    Cause.TAKEN: Rule(),
    Cause.PREEMPTED: Rule(),
    Cause.INTERRUPTED: Rule(),
}
MEANINGS: Mapping[Cause, str] = {
    Cause.CRASH: "a signal killed it: SIGKILL, SIGSEGV, SIGABRT ...",
    Cause.EXCEPTION: "it ended with another exit code than 0",
    Cause.HOST_MEMORY: "MemoryError, or killed while the kernel counted a kill for want of memory",
    Cause.DEVICE_MEMORY: "a GPU had too little memory",
    Cause.HANG: "nothing moved for longer than its deadline",
    Cause.DISK_FULL: "no space, or a quota, ended it",
    Cause.STORAGE: "the storage failed otherwise",
    Cause.DAMAGED: "no checkpoint verifies, or a load failed half way",
    Cause.NOT_FINITE: "the loss stayed NaN or infinite",
    Cause.EXPLOSION: "the loss stayed far above what it was",
    Cause.UNHEALTHY: "a rule of on_finding lets the run go back",
    Cause.NODE_LOST: "of several ranks: the launcher was killed, or a rank lost its connection to others",
    Cause.CONFIGURATION: "it cannot work: refused values, or failed before it ever trained",
    Cause.TAKEN: "another process trains this run",
    Cause.PREEMPTED: "asked to end: SIGTERM, a notice, Slurm's time limit",
    Cause.INTERRUPTED: "Ctrl-C",
}
_FIXED = (Cause.FINISHED, Cause.PREEMPTED, Cause.INTERRUPTED)
_EXAMPLE = "Write for example --on 'exception: stop' or --on 'hang: restart 5, wait 30, back 2'."
_PART = re.compile(r"(restart|wait|back) (\d+(?:\.\d+)?)")


def changed(rules: Mapping[Cause, Rule], texts: list[str]) -> dict[Cause, Rule]:
    """The table with some rules replaced.

    Raises
    ------
    UsageError
        One cannot be understood.
    """
    return dict(rules) | dict(map(_parse, texts))


def _parse(text: str) -> tuple[Cause, Rule]:
    name, colon, words = (part.strip() for part in text.partition(":"))
    causes = {cause.value: cause for cause in RULES if cause not in _FIXED}
    if not colon or name not in causes:
        raise UsageError(f"The rule {text!r} names none of: {', '.join(causes)}.", do=_EXAMPLE)
    if words == "stop":
        return causes[name], Rule()
    found = [_PART.fullmatch(part.strip()) for part in words.split(",")]
    given = {match[1]: float(match[2]) for match in found if match is not None}
    whole = all(given[key] == int(given[key]) for key in given.keys() & {"restart", "back"})
    if None in found or len(given) != len(found) or "restart" not in given or not whole:
        raise UsageError(f"The rule {text!r} cannot be understood.", do=_EXAMPLE)
    return causes[name], Rule(int(given["restart"]), given.get("wait", 0.0), int(given.get("back", 0)))
