"""``holdfast sync``: bring runs of one repository to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, as_dict, find_runs
from holdfast.training.claiming import claimed, refuse_without_line

if TYPE_CHECKING:
    from holdfast.domain.keep_rules import KeepRule
    from holdfast.errors import HoldfastError
    from holdfast.repository.repository import Repository
    from holdfast.repository.sync_plan import Planned, Route
    from holdfast.repository.syncing import Synced

EXAMPLES = (
    "holdfast sync ./checkpoints /mnt/backup/checkpoints",
    "holdfast sync ./checkpoints /mnt/backup/checkpoints digits 'sweep/*'",
    "holdfast sync ./checkpoints /mnt/backup/checkpoints --dry-run --json",
    "holdfast sync --latest s3://bucket/prefix ./checkpoints digits",
    "holdfast sync --latest --keep 'best 1 val_loss min' s3://bucket/prefix ./checkpoints digits",
)


def command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or URL of the repository to read.")],
    target: Annotated[
        str, typer.Argument(metavar="DEST", help="Folder or URL of the one to bring it to; made if absent.")
    ],
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Runs or patterns; else all runs.", show_default=False),
    ] = None,
    latest: Annotated[
        bool,
        typer.Option(
            "--latest", help="Of the checkpoints only what each run resumes from, and the best of --keep."
        ),
    ] = False,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="RULE",
            help="Of the checkpoints only those that 'holdfast prune --keep RULE' would keep at DEST.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be moved.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="DEST may be open to everybody although a key is given.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring runs of SOURCE to DEST: only chunks that DEST lacks move, each verified on the way.

    Tags, attempts and rejections come along, so a launch at DEST resumes where one at SOURCE would.
    Nothing at DEST is removed. SOURCE may be training meanwhile; killed half way, the same command
    goes on. A run that has gone on by itself at DEST is refused. What is sealed stays so: with a key
    given, DEST is created sealed, and one that is not is refused without --plain.
    """
    from holdfast.domain.keep_rules import parse
    from holdfast.errors import UsageError
    from holdfast.storage.urls import is_same_place

    if is_same_place(source, target):
        raise UsageError(f"{source} cannot be synced to itself.", do="Give DEST another place.")
    rule = parse(keep) if keep is not None else None
    opened = _open(source, plain=True)
    found = [run for name in runs for run in find_runs(opened, name)] if runs else opened.runs()
    names = list(dict.fromkeys(run.name for run in found))
    if dry_run:
        _plan(opened, _open_if_there(target, plain=plain), names, latest=latest, keep=rule, json=json)
    else:
        target_repository = _created(opened, target, plain=plain)
        _sync(opened, target_repository, names, latest=latest, keep=rule, json=json)


def _open(place: str, *, plain: bool) -> Repository:
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage

    return Repository.open(open_storage(place), plain=plain)


def _created(source: Repository, place: str, *, plain: bool) -> Repository:
    from holdfast.repository.repository import Repository
    from holdfast.storage.urls import open_storage

    storage = open_storage(place, create=True)
    return Repository.create(storage, chunk_bytes=source.chunk_bytes, repository_id=source.id, plain=plain)


def _open_if_there(place: str, *, plain: bool) -> Repository | None:
    from holdfast.errors import NotFoundError

    try:
        return _open(place, plain=plain)
    except NotFoundError:
        return None


def _planned(
    source: Repository, target: Repository | None, names: list[str], *, latest: bool, keep: KeepRule | None
) -> list[Planned]:
    from holdfast.repository.sync_plan import plan

    return list(plan(source, target, names, latest=latest, keep=keep))


def _plan(
    source: Repository,
    target: Repository | None,
    names: list[str],
    *,
    latest: bool,
    keep: KeepRule | None,
    json: bool,
) -> None:
    refused = {name: why for name in names if (why := _refusal(source, target, name, latest=latest))}
    allowed = [name for name in names if name not in refused]
    _tell_plan(_planned(source, target, allowed, latest=latest, keep=keep), refused, json=json)
    if refused:
        raise typer.Exit(max(error.exit_code for error in refused.values()))


def _refusal(
    source: Repository, target: Repository | None, name: str, *, latest: bool
) -> HoldfastError | None:
    """Why a sync would refuse a run; nothing is written."""
    from holdfast.errors import HoldfastError, StorageError
    from holdfast.node.lease import refuse_if_live
    from holdfast.repository.syncing import refuse_diverged

    try:
        if latest:
            refuse_without_line(source.run(name))
        if target is not None:
            there = target.run(name)
            refuse_if_live(there.storage, there.layout.leases, f"The run {name}")
            refuse_diverged(source.run(name), there)
    except StorageError:
        raise
    except HoldfastError as error:
        return error
    return None


def _tell_plan(planned: list[Planned], refused: dict[str, HoldfastError], *, json: bool) -> None:
    if json:
        told: list[dict[str, Any]] = [
            {"run": p.run, "checkpoints": p.checkpoints, "moved_bytes": p.moved_bytes, "refused": None}
            for p in planned
        ]
        told += [{"run": n, "checkpoints": 0, "moved_bytes": 0, "refused": str(refused[n])} for n in refused]
        output.print_json({"dry_run": True, "runs": told})
        return
    for run in (p for p in planned if p.checkpoints):
        output.say(f"{run.run}: {_amount(run.checkpoints, run.moved_bytes)} to move.")
    for error in refused.values():
        output.note(str(error))
    if not any(p.checkpoints for p in planned) and not refused:
        output.say("Every checkpoint is there.")


def _amount(checkpoints: int, moved_bytes: int) -> str:
    return f"{text.several(checkpoints, 'checkpoint')}, {text.size(moved_bytes)}"


def _sync(
    source: Repository,
    target: Repository,
    names: list[str],
    *,
    latest: bool,
    keep: KeepRule | None,
    json: bool,
) -> None:
    from holdfast.repository.sync_plan import Route

    route = Route(source, target)
    refused: dict[str, HoldfastError] = {}
    total = sum(p.moved_bytes for p in _planned(source, target, names, latest=latest, keep=keep))
    with output.progress("Syncing", total) as advance:
        done = [_one(route, name, advance, refused, latest=latest, keep=keep) for name in names]
    damaged = _damaged_copies(route)
    _tell(done, refused, damaged, json=json)
    failures = [error.exit_code for error in refused.values()]
    failures += [4] if any(synced.failed for synced in done) else []
    if failures:
        raise typer.Exit(max(failures))


def _one(
    route: Route,
    name: str,
    advance: Any,
    refused: dict[str, HoldfastError],
    *,
    latest: bool,
    keep: KeepRule | None,
) -> Synced:
    """One run; that it is refused must not keep the others."""
    from holdfast.errors import HoldfastError, StorageError
    from holdfast.repository.syncing import Synced, sync_run

    try:
        if latest:  # nothing would come, as if there were nothing
            refuse_without_line(route.source.run(name))
        with claimed(route.target.run(name)):
            return sync_run(route, name, advance, latest=latest, keep=keep)
    except StorageError:
        raise  # a full disk, a lost connection: the next run would fare no better
    except HoldfastError as error:
        refused[name] = error
        return Synced(name)


def _damaged_copies(route: Route) -> list[dict[str, Any]]:
    """Copies at the source that two reads found bad; recorded there, if that can be written to."""
    from contextlib import suppress

    from holdfast.errors import StorageError

    found = [{"pack": p, "chunks": len(d), "reason": why} for (p, why), d in route.copies.found.items()]
    with suppress(StorageError):
        route.copies.record_all()
    return found


def _tell(
    done: list[Synced],
    refused: dict[str, HoldfastError],
    damaged: list[dict[str, Any]],
    *,
    json: bool,
) -> None:
    if json:
        runs = [{**as_dict(s), "refused": str(refused[s.run]) if s.run in refused else None} for s in done]
        output.print_json({"dry_run": False, "runs": runs, "damaged_copies": damaged})
        return
    for synced in done:
        if synced.checkpoints:
            output.say(f"{synced.run}: {_amount(synced.checkpoints, synced.moved_bytes)} moved.")
        elif synced.records:
            output.say(f"{synced.run}: {text.several(synced.records, 'record')} brought up to date.")
        for reason in synced.failed.values():
            output.note(f"{synced.run}: not brought: {reason}")
    for copy in damaged:
        chunks = text.several(copy["chunks"], "chunk")
        output.note(f"The copy of {chunks} in pack {copy['pack']} of the source {copy['reason']}.")
    for error in refused.values():
        output.note(str(error))
    if all(synced.is_nothing for synced in done) and not refused:
        output.say("Nothing to move: all of it is there.")
