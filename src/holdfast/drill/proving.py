"""Whether a script resumes exactly: run it undisturbed, run it again and kill it, compare every step."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from functools import partial

import msgspec

from holdfast.drill.comparing import Difference, made
from holdfast.drill.judging import judged, unended
from holdfast.drill.launching import Script, Training, undisturbed
from holdfast.errors import HoldfastError


class Proof(Script, frozen=True, kw_only=True):
    """What to run, and how.

    Attributes
    ----------
    seed : int
        Of the moments of the kills.
    """

    kills: int = 3
    seed: int = 0


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
        It fails although nobody kills it, it saves nothing, or it is over too soon to be killed.
    """
    whole = undisturbed(proof, "whole")
    last = max(steps := {step for _, step in whole})
    say(f"undisturbed: {len(steps)} steps saved, up to step {last}.")
    killed = Training(proof, "killed")
    kills, failure = _kill_again_and_again(killed, proof, last, say)
    if not kills and not failure:
        raise HoldfastError("The script was over before it could be killed.", do="Give it more steps.")
    others = list(made(killed.scratch.repository))
    found, why = judged(whole, others, partial(undisturbed, proof, "again"), say)
    return Verdict(
        steps=len(others),
        tensors=sum(len(other.tensors) for other in others),
        kills=kills,
        difference=found,
        failure=failure or unended(whole, others),
        likely=why,
    )


def _kill_again_and_again(
    training: Training, proof: Proof, last: int, say: Callable[[str], None]
) -> tuple[list[int], str]:
    """Kill it at random moments, then let it end; returns the steps, and why it did not end well."""
    dice, kills = random.Random(proof.seed), list[int]()
    targets = sorted(dice.sample(range(1, last), min(proof.kills, last - 1)))
    for target in targets:
        code = training.launch(target, dice.random())
        if code != -signal.SIGKILL:
            return kills, _of_code(code, training.scratch.said)
        kills.append(training.step)
        say(f"kill {len(kills)}: SIGKILL at step {training.step}.")
    return kills, _of_code(training.launch(), training.scratch.said)


def _of_code(code: int, said: str) -> str:
    return f"it ended with {code} after a kill; it said:\n{said}" if code else ""
