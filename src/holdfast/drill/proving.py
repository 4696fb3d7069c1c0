"""Whether a script resumes exactly: run it undisturbed, run it again and kill it, compare every step."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from holdfast.drill.comparing import Difference, Made, first_difference, made, varying
from holdfast.drill.likely import likely
from holdfast.errors import HoldfastError, NotFoundError
from holdfast.node.groups import Group, started
from holdfast.node.pulse import PLACE_VARIABLE, Page, Phase
from holdfast.repository.repository import Repository
from holdfast.storage.urls import open_storage
from holdfast.training.overrides import VARIABLE, Overrides

LOOK_SECONDS = 0.002
_SAID = 2000
_MEMORY_SECONDS = "60"
"""A killed trainer's memory is held for the next launch, which comes at once."""


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, and how.

    Attributes
    ----------
    folder : str
        Where both trainings save and print.
    seed : int
        Of the moments of the kills.
    patience_seconds : float
        Without any progress for so long, it is given up.
    """

    command: tuple[str, ...]
    folder: str
    kills: int = 3
    seed: int = 0
    patience_seconds: float = 600.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came out.

    Attributes
    ----------
    steps, tensors : int
        How many checkpoints of the killed training were compared; how many tensors they have together.
    kills : list[int]
        The steps at which it was killed.
    difference : Difference or None
    failure : str
        Why the killed training did not come to its end, if it did not.
    likely : str
        What is probably the matter.
    """

    steps: int
    tensors: int
    kills: list[int]
    difference: Difference | None = None
    failure: str = ""
    likely: str = ""

    @property
    def exact(self) -> bool:
        return self.difference is None and not self.failure


def prove(proof: Proof, say: Callable[[str], None]) -> Verdict:
    """Run the script twice, and a third time if it differs.

    Raises
    ------
    HoldfastError
        It fails although nobody kills it, or it saves nothing.
    """
    whole = _undisturbed(proof, "whole")
    last = max(step for _, step in whole)
    say(f"undisturbed: {len(whole)} steps saved, up to step {last}.")
    killed = _Training(proof, "killed")
    kills, failure = _kill_again_and_again(killed, proof, last, say)
    others = list(made(killed.repository))
    found, why = _judge(proof, whole, others, say)
    return Verdict(
        steps=len(others),
        tensors=sum(len(other.tensors) for other in others),
        kills=kills,
        difference=found,
        failure=failure or _unfinished(whole, others),
        likely=why,
    )


def _judge(
    proof: Proof, whole: dict[tuple[str, int], Made], others: list[Made], say: Callable[[str], None]
) -> tuple[Difference | None, str]:
    """The first difference that means something, and what is probably the matter."""
    found = first_difference(whole, others)
    if found is None:
        return None, ""
    say(f"it differs at step {found.step}; does it differ from itself? Running it undisturbed again.")
    again = _undisturbed(proof, "again")
    alone = first_difference(whole, again.values())
    if alone is not None and alone.leaves_training_alone:
        unlike = varying(whole, again)
        names = ", ".join(sorted({path.rpartition("/")[2] for path in unlike}))
        say(f"left out, as it differs undisturbed too and training does not depend on it: {names}.")
        found, alone = first_difference(whole, others, unlike), None
    first_step = min(step for _, step in whole)
    return (found, likely(found, alone, first_step)) if found is not None else (None, "")


def _unfinished(whole: dict[tuple[str, int], Made], others: list[Made]) -> str:
    missing = sorted(whole.keys() - {(other.run, other.step) for other in others}, key=lambda key: key[1])
    return f"it ended without step {missing[-1][1]} of the run {missing[-1][0]}" if missing else ""


def _undisturbed(proof: Proof, name: str) -> dict[tuple[str, int], Made]:
    training = _Training(proof, name)
    code = training.launch(None)
    if code != 0:
        raise HoldfastError(
            f"The script ends with {code} although nobody kills it; it said:\n{training.said}",
            do="Mend that first.",
        )
    found = {(m.run, m.step): m for m in made(training.repository)}
    if not found:
        raise _nothing_saved()
    return found


def _nothing_saved() -> NotFoundError:
    return NotFoundError(
        "The script has saved nothing.",
        do="It needs a Checkpointer around its loop, and a step() in it: the tutorial shows how.",
    )


def _kill_again_and_again(
    training: _Training, proof: Proof, last: int, say: Callable[[str], None]
) -> tuple[list[int], str]:
    """Kill it at random moments, then let it end; returns the steps, and why it did not end well."""
    dice, kills = random.Random(proof.seed), list[int]()
    targets = sorted(dice.sample(range(1, last), min(proof.kills, last - 1)))
    for target in targets:
        code = training.launch(target, dice.random())
        if code != -signal.SIGKILL:
            return kills, _of_code(code, training.said)
        kills.append(training.step)
        say(f"kill {len(kills)}: SIGKILL at step {training.step}.")
    return kills, _of_code(training.launch(None), training.said)


def _of_code(code: int, said: str) -> str:
    return f"it ended with {code} after a kill; it said:\n{said}" if code else ""


class _Training:
    """One of the trainings: launches of the same command that save to one place of its own."""

    def __init__(self, proof: Proof, name: str) -> None:
        self._proof = proof
        self._place = Path(proof.folder) / name
        self._log = Path(proof.folder) / f"{name}.log"
        self.step = 0
        """That at which the last launch was seen last."""

    @property
    def repository(self) -> Repository:
        try:
            return Repository.open(open_storage(self._place))
        except NotFoundError:
            raise _nothing_saved() from None

    @property
    def said(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-_SAID:]

    def launch(self, kill_at: int | None, delay: float = 0.0) -> int:
        """Start it, kill it at a step (``delay`` of a step's time later), and return its exit code."""
        page = Page()
        overrides = Overrides(repository=str(self._place), save="every 1 step", keep="all")
        variables = {"HOLDFAST_MEMORY_SECONDS": _MEMORY_SECONDS} | os.environ
        variables |= {PLACE_VARIABLE: page.place, VARIABLE: overrides.encoded()}
        with self._log.open("ab") as log:
            group = started(self._proof.command, variables, log.fileno())
        try:
            return self._follow(group, page, kill_at, delay)
        finally:
            group.signal_all(signal.SIGKILL)
            page.close()

    def _follow(self, group: Group, page: Page, kill_at: int | None, delay: float) -> int:
        beats, moved_at = -1, time.monotonic()
        while (code := group.poll()) is None:
            seen, now = page.look(), time.monotonic()
            self.step = seen.step
            if seen.beats != beats:
                beats, moved_at = seen.beats, now
            if now - moved_at > self._proof.patience_seconds:
                raise HoldfastError(
                    f"The script made no progress for {self._proof.patience_seconds:g} s:\n{self.said}"
                )
            if kill_at is not None and seen.step >= kill_at:
                time.sleep(delay * seen.longest_seconds[Phase.STEPPING])
                group.signal_all(signal.SIGKILL)
                kill_at = None
            time.sleep(LOOK_SECONDS)
        return code
