"""``holdfast rm``: remove a checkpoint or a whole run."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import (
    AddressArgument,
    RepositoryOption,
    YesOption,
    address,
    find_run,
    open_repository,
)
from holdfast.cli.told import live_holders
from holdfast.training.claiming import claimed, claimed_whole

if TYPE_CHECKING:
    from holdfast.domain.names import CheckpointId
    from holdfast.repository.retention import Pruned
    from holdfast.repository.run import Run

EXAMPLES = ("holdfast rm digits@500", "holdfast rm sweep/lr3 --yes", "holdfast rm digits@paper --force")


def command(
    which: AddressArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Also what is tagged, live, or the last recovery point.")
    ] = False,
    repository: RepositoryOption = None,
    yes: YesOption = False,
) -> None:
    """Remove RUN with all its checkpoints, or one checkpoint RUN@AT, and free what only they used.

    Killed half way, the same command finishes it.
    """
    run = find_run(open_repository(repository), which.partition("@")[0])
    one = run.resolve(address(which).at) if "@" in which else None
    alone = claimed_whole if one is None else claimed
    with nullcontext() if force and live_holders(run) else alone(run):
        _check(run, one, force=force)
        if not output.confirm(_question(run, one), yes=yes):
            output.note("Nothing was removed.")
            return
        _report(which, _remove(run, one), whole=one is None)


def _check(run: Run, one: CheckpointId | None, *, force: bool) -> None:
    from holdfast.errors import UsageError
    from holdfast.repository.removing import obstacles

    if force:
        return
    found = obstacles(run, [one]) if one is not None else _tagged(run)
    if found:
        raise UsageError(" ".join(found), do="Say --force to remove it nevertheless.")


def _tagged(run: Run) -> list[str]:
    return [f"{run.name}@{c.step} is tagged {tag!r}." for tag, c in sorted(run.tags().items())]


def _question(run: Run, one: CheckpointId | None) -> str:
    if one is None:
        return f"Remove the run {run.name} with {text.several(len(run.all_checkpoints()), 'checkpoint')}?"
    left = [c for c in run.recovery_points() if c != one]
    after = f"the run would resume from step {left[0].step}" if left else "the run would start from scratch"
    return f"Remove {run.name}@{one.step}? Then {after}."


def _remove(run: Run, one: CheckpointId | None) -> Pruned:
    from holdfast.repository import seen
    from holdfast.repository.removing import remove_checkpoints, remove_run

    removed = remove_run(run) if one is None else remove_checkpoints(run, [one])
    if not removed.busy:
        seen.forget(run)
    return removed


def _report(what: str, pruned: Pruned, *, whole: bool) -> None:
    from holdfast.errors import BusyError

    if pruned.busy:
        raise BusyError(
            "Another process was saving or reading all the time, so nothing was removed.", do="Try again."
        )
    if pruned.waiting and not pruned.checkpoints:
        records = f" its checkpoints; then 'holdfast rm {what}' its records" if whole else " it"
        output.note(f"{what} is condemned; after a grace time of hours 'holdfast prune' deletes{records}.")
    else:
        gone = text.several(len(pruned.checkpoints), "checkpoint")
        later = "; 'holdfast prune' frees the rest after a grace time of hours" if pruned.waiting else ""
        output.note(f"Removed {what}: {gone}, {text.size(pruned.freed_bytes)} freed{later}.")
