"""``holdfast verify``: check every chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, MaybeAddress, RepositoryOption, find_wanted, open_repository
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.domain.names import CheckpointId
    from holdfast.repository.mending import Mended
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run
    from holdfast.repository.verify import Verdict, Verifier

_WHAT_NEXT = (
    "'holdfast repair' says what can be mended, --repair-from brings it from another repository."
    " A launch goes on from the newest intact checkpoint."
)
EXAMPLES = (
    "holdfast verify",
    "holdfast verify digits@latest",
    "holdfast verify 'sweep/*' --dry-run --json",
    "holdfast verify --repair-from s3://bucket/prefix",
)


def command(
    which: MaybeAddress = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report; record no damage, reject nothing.")
    ] = False,
    repair_from: Annotated[
        str | None,
        typer.Option(
            "--repair-from",
            metavar="PLACE",
            help="Bring what is damaged from this repository, such as a mirror.",
            show_default=False,
        ),
    ] = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Read every chunk, or those of RUN[@AT], and compare it with its digest.

    Damage is named by checkpoint, tensor and pack. What two reads found wrong is recorded, so
    that no run resumes from it; nothing is moved or deleted. Ends with 4 if anything is damaged,
    and is so still after --repair-from.
    """
    if dry_run and repair_from is not None:
        raise UsageError("--dry-run writes nothing, --repair-from does.", do="Leave one of the two out.")
    opened = open_repository(repository)
    other = open_repository(repair_from) if repair_from is not None else None
    wanted = find_wanted(opened, which)
    verdicts, rejected, note = _check(opened, wanted, dry_run=dry_run)
    damaged = [v for v in verdicts if not v.ok]
    if not json:
        _print(verdicts, rejected, dry_run=dry_run)
    if note:
        output.note(note)
    mended = _mend(opened, other, verdicts) if other is not None else []
    if json:
        output.print_json(_told(opened, verdicts, rejected, mended))
    elif other is not None:
        _print_mended(mended, other)
    elif damaged:
        output.say(_WHAT_NEXT)
    whole = {(m.run, m.id) for m in mended if m.failed is None}
    if any((v.run, v.id) not in whole for v in damaged):
        raise typer.Exit(4)


def _mend(repository: Repository, other: Repository, verdicts: list[Verdict]) -> list[Mended]:
    from holdfast.repository.mending import Mender

    sizes = (_size_bytes(repository.run(v.run), v.id) for v in verdicts if not v.ok)
    with output.progress("Mending", sum(sizes)) as advance:
        return Mender(repository, other, advance).all_of(verdicts)


def _print_mended(mended: list[Mended], other: Repository) -> None:
    for one in mended:
        address = f"{one.run}@{one.id.step}"
        if one.failed is None:
            brought = text.size(one.moved_bytes)
            output.say(f"{address}: whole again; {brought} came from {other.storage.location}.")
        else:
            output.say(f"{address}: still damaged: {one.failed}")


def _check(
    repository: Repository, wanted: list[tuple[Run, CheckpointId]], *, dry_run: bool
) -> tuple[list[Verdict], list[Verdict], str | None]:
    from holdfast.errors import StorageError
    from holdfast.repository.verify import Verifier

    sizes = [_size_bytes(run, checkpoint) for run, checkpoint in wanted]
    verdicts = []
    with output.progress("Checking", sum(sizes)) as advance:
        verifier: Verifier = Verifier(repository, advance)
        for (run, checkpoint), size_bytes in zip(wanted, sizes, strict=True):
            verdict = verifier.check(run, checkpoint)
            if verdict is not None:
                verdicts.append(verdict)
                advance(size_bytes - verdict.checked_bytes)
    if dry_run:
        return verdicts, [], None
    try:
        return verdicts, verifier.record(verdicts), None
    except StorageError as error:
        return verdicts, [], f"The damage could not be recorded: {error.what}"


def _size_bytes(run: Run, checkpoint: CheckpointId) -> int:
    from holdfast.errors import HoldfastError

    try:
        return run.summary(checkpoint).size_bytes
    except HoldfastError:
        return 0


def _told(
    repository: Repository, verdicts: list[Verdict], rejected: list[Verdict], mended: list[Mended]
) -> dict[str, Any]:
    moved_bytes = {(m.run, str(m.id)): m.moved_bytes for m in mended if m.failed is None}
    return {
        "repository": repository.storage.location,
        "checkpoints": [
            {
                "address": f"{v.run}@{v.id.step}",
                "run": v.run,
                "id": str(v.id),
                "step": v.id.step,
                "ok": v.ok,
                "manifest": v.manifest,
                "tensors": v.tensors,
                "checked_bytes": v.checked_bytes,
                "rejected_now": v in rejected,
                "mended": (v.run, str(v.id)) in moved_bytes,
            }
            for v in verdicts
        ],
        "damaged": sum(not v.ok for v in verdicts),
        "checked_bytes": sum(v.checked_bytes for v in verdicts),
        "moved_bytes": sum(moved_bytes.values()),
    }


def _print(verdicts: list[Verdict], rejected: list[Verdict], *, dry_run: bool) -> None:
    damaged = [v for v in verdicts if not v.ok]
    for verdict in damaged:
        output.say(f"{verdict.run}@{verdict.id.step}: {'not checked' if verdict.newer else 'damaged'}")
        lines = [verdict.manifest] if verdict.manifest else []
        lines += [f"tensor {name}: {why}" for name, why in verdict.tensors.items()]
        for line in lines:
            output.say(f"  {line}")
    whole = (
        f"{text.several(len(verdicts), 'checkpoint')}, {text.size(sum(v.checked_bytes for v in verdicts))}"
    )
    if not damaged:
        output.say(f"All intact: {whole}.")
        return
    fate = "nothing was recorded (--dry-run)" if dry_run else f"{len(rejected)} newly rejected"
    output.say(f"{len(damaged)} of {whole} damaged; {fate}.")
