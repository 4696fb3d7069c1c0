"""Whether a difference means anything: it is held against the script itself, run undisturbed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from holdfast.drill.comparing import Difference, Made, first_difference, varying
from holdfast.drill.likely import likely

Whole = Mapping[tuple[str, int], Made]


def judged(
    whole: Whole, others: Sequence[Made], again: Callable[[], Whole], say: Callable[[str], None]
) -> tuple[Difference | None, str]:
    """The first difference that means something, and what is probably the matter.

    Parameters
    ----------
    again : callable
        Runs the script undisturbed once more.
    """
    found = first_difference(whole, others)
    if found is None:
        return None, ""
    say(f"it differs at step {found.step}; does it differ from itself? Running it undisturbed again.")
    second = again()
    alone = first_difference(whole, second.values())
    if alone is not None and alone.leaves_training_alone:
        unlike = varying(whole, second)
        names = ", ".join(sorted({path.rpartition("/")[2] for path in unlike}))
        say(f"left out, as it differs undisturbed too and training does not depend on it: {names}.")
        found, alone = first_difference(whole, others, unlike), None
    first_step = min(step for _, step in whole)
    return (found, likely(found, alone, first_step)) if found is not None else (None, "")


def unended(whole: Whole, others: Sequence[Made]) -> str:
    """Which run did not come to its last step; empty if none."""
    ends = {run: max(step for name, step in whole if name == run) for run, _ in whole}
    missing = ends.items() - {(other.run, other.step) for other in others}
    return next((f"it ended without step {step} of the run {run}" for run, step in sorted(missing)), "")
