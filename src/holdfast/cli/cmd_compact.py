"""``holdfast compact``: rewrite packs so that they take up less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, MaybeRuns, RepositoryOption, find_runs, open_repository

if TYPE_CHECKING:
    from collections.abc import Collection

    from holdfast.repository.compact import Compacted, Plan
    from holdfast.repository.repository import Repository

EXAMPLES = (
    "holdfast compact --dry-run",
    "holdfast compact",
    "holdfast compact 'sweep/*' --json",
    "holdfast compact --cold",
)
WAIT_SECONDS = 60.0


def command(
    run: MaybeRuns = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would give, about.")] = False,
    cold: Annotated[
        bool,
        typer.Option("--cold", help="Then squeeze harder, slowly, what no run's newest five need."),
    ] = False,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Rewrite packs smaller: compress, also by one another, merge small ones, leave out what nothing needs.

    Checkpoints stay exactly as they are. It may run while others save and restore, and may be
    killed at any time; another run of it goes on.
    """
    from holdfast.repository import compact

    opened = open_repository(repository)
    names = {r.name for r in find_runs(opened, run)} if run is not None else None
    if dry_run:
        plans = [compact.plan(opened, names), *([compact.plan(opened, names, hard=True)] if cold else [])]
        _tell_plans(plans, json=json)
        return
    done = _compact(opened, names, hard=False)
    if cold:
        done = done.followed_by(_compact(opened, names, hard=True))
    _tell(done, json=json)


def _compact(repository: Repository, names: Collection[str] | None, *, hard: bool) -> Compacted:
    from holdfast.errors import BusyError
    from holdfast.repository import compact

    plan = compact.plan(repository, names, hard=hard)
    with output.progress("Squeezing" if hard else "Compacting", plan.raw_bytes) as advance:
        done = compact.apply(plan, wait_seconds=WAIT_SECONDS, advance=advance)
    if done.busy:
        raise BusyError(
            "Another process was saving or reading all the time, so old packs are still there.",
            do="Run 'holdfast prune' when it has finished.",
        )
    return done


def _tell_plans(plans: list[Plan], *, json: bool) -> None:
    before = plans[0].size_bytes
    victims = {victim.pack: victim for plan in reversed(plans) for victim in plan.victims}
    after = before - sum(victim.dead_bytes + victim.gain_bytes for victim in victims.values())
    packs = len(victims)
    if json:
        output.print_json({"dry_run": True, "packs": packs, "bytes_before": before, "bytes_after": after})
        return
    if not packs:
        output.say(_nothing(before))
        return
    sizes = f"{text.size(before)} before, about {text.size(after)} after"
    output.say(f"Would rewrite {text.several(packs, 'pack')}: {sizes}.")


def _tell(done: Compacted, *, json: bool) -> None:
    import msgspec

    if json:
        told = msgspec.to_builtins(done)
        del told["busy"]
        output.print_json({"dry_run": False, **told})
        return
    if not (done.packs_removed or done.packs_written or done.waiting or done.unread):
        output.say(_nothing(done.bytes_after))
        return
    sizes = f"{text.size(done.bytes_before)} before, {text.size(done.bytes_after)} after"
    replaced = done.packs_removed + done.waiting
    output.say(f"Replaced {text.several(replaced, 'pack')} by {done.packs_written}: {sizes}.")
    if done.waiting:
        output.say(f"{done.waiting} of the old stay until their grace time is over: 'holdfast prune' then.")
    if done.unread:
        chunks = text.several(done.unread, "chunk")
        output.note(f"{chunks} could not be read, so their packs stay: run 'holdfast verify'.")


def _nothing(size_bytes: int) -> str:
    return f"Nothing to compact in {text.size(size_bytes)} of packs."
