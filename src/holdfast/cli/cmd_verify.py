"""``holdfast verify``: check every chunk, and mend what another repository has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, MaybeAddress, RepositoryOption, find_wanted, open_repository
from holdfast.errors import DamagedError, HoldfastError, SignatureError, StorageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from holdfast.domain.names import CheckpointId
    from holdfast.repository.mending import Mended
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run
    from holdfast.repository.verify import Verdict, Verifier

EXAMPLES = (
    "holdfast verify",
    "holdfast verify digits@latest",
    "holdfast verify 'sweep/*' --dry-run --json",
    "holdfast verify --repair-from s3://bucket/prefix",
    'holdfast verify --signed-by "$(cat team.pub)"',
)
_WHAT_NEXT = (
    "'holdfast repair' says what can be mended, --repair-from brings it from another repository."
    " A launch goes on from the newest intact checkpoint."
)


class _Report(msgspec.Struct):
    """What was found, and what was done about it."""

    verdicts: list[Verdict]
    rejected: list[Verdict]
    note: str | None = None
    mended: list[Mended] = []
    unsigned: dict[CheckpointId, str] = {}
    unsigned_records: list[str] = []

    @property
    def damaged(self) -> list[Verdict]:
        return [v for v in self.verdicts if not v.ok]

    @property
    def exit_code(self) -> int:
        whole = {(m.run, m.id) for m in self.mended if m.failed is None}
        if any((v.run, v.id) not in whole for v in self.damaged):
            return DamagedError.exit_code
        return SignatureError.exit_code if self.unsigned or self.unsigned_records else 0


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
    signed_by: Annotated[
        str | None,
        typer.Option(
            "--signed-by",
            metavar="KEYS",
            help="Public keys, one of which has to have signed each; else $HOLDFAST_SIGNED_BY.",
            show_default=False,
        ),
    ] = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Read every chunk, or those of RUN[@AT], and compare it with its digest.

    Damage is named by checkpoint, tensor and pack. What two reads found wrong is recorded, so
    that no run resumes from it; nothing is moved or deleted. Ends with 4 if anything is damaged, and
    is so still after --repair-from; else with 13 if a checkpoint, tag or launch is not signed as required.
    """
    from holdfast.repository.signatures import parse_public, trusted_signers

    if dry_run and repair_from is not None:
        raise UsageError("--dry-run writes nothing, --repair-from does.", do="Leave one of the two out.")
    trusted = trusted_signers() if signed_by is None else parse_public(signed_by)
    opened = open_repository(repository)
    other = open_repository(repair_from) if repair_from is not None else None
    report = _check(opened, find_wanted(opened, which), dry_run=dry_run)
    if other is not None:
        report.mended = _mend(opened, other, report.verdicts)
    if trusted:
        report.unsigned = _unsigned(opened, report.verdicts, trusted)
        whole = "@" not in (which or "")
        report.unsigned_records = _unsigned_records(opened, report.verdicts, trusted) if whole else []
    if json:
        output.print_json(_told(opened, report))
    else:
        _print(report, dry_run=dry_run, other=other)
    if report.note:
        output.note(report.note)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _check(repository: Repository, wanted: list[tuple[Run, CheckpointId]], *, dry_run: bool) -> _Report:
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
        return _Report(verdicts, [])
    try:
        return _Report(verdicts, verifier.record(verdicts))
    except StorageError as error:
        return _Report(verdicts, [], f"The damage could not be recorded: {error.what}")


def _size_bytes(run: Run, checkpoint: CheckpointId) -> int:
    try:
        return run.summary(checkpoint).size_bytes
    except HoldfastError:
        return 0


def _mend(repository: Repository, other: Repository, verdicts: list[Verdict]) -> list[Mended]:
    from holdfast.repository.mending import Mender

    sizes = (_size_bytes(repository.run(v.run), v.id) for v in verdicts if not v.ok)
    with output.progress("Mending", sum(sizes)) as advance:
        return Mender(repository, other, advance).all_of(verdicts)


def _unsigned(
    repository: Repository, verdicts: list[Verdict], trusted: Collection[str]
) -> dict[CheckpointId, str]:
    """Readable checkpoints that nobody trusted has signed, each with what is known of that."""
    from holdfast.repository.signatures import require

    found = {}
    for verdict in verdicts:
        run = repository.run(verdict.run)
        try:
            require(run, run.manifest(verdict.id), verdict.id, trusted)
        except SignatureError as error:
            found[verdict.id] = error.what
        except HoldfastError:
            continue  # told of as damaged
    return found


def _unsigned_records(repository: Repository, verdicts: list[Verdict], trusted: Collection[str]) -> list[str]:
    """Tags, and records of launches, that nobody trusted has signed."""
    from holdfast.repository.vouching import unsigned

    runs = sorted({verdict.run for verdict in verdicts})
    return [told for name in runs for told in unsigned(repository.run(name), trusted)]


def _told(repository: Repository, report: _Report) -> dict[str, Any]:
    moved_bytes = {(m.run, m.id): m.moved_bytes for m in report.mended if m.failed is None}
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
                "rejected_now": v in report.rejected,
                "mended": (v.run, v.id) in moved_bytes,
                "unsigned": report.unsigned.get(v.id),
            }
            for v in report.verdicts
        ],
        "damaged": len(report.damaged),
        "unsigned_records": report.unsigned_records,
        "checked_bytes": sum(v.checked_bytes for v in report.verdicts),
        "moved_bytes": sum(moved_bytes.values()),
    }


def _print(report: _Report, *, dry_run: bool, other: Repository | None) -> None:
    for verdict in report.damaged:
        output.say(f"{verdict.run}@{verdict.id.step}: {'not checked' if verdict.newer else 'damaged'}")
        lines = [verdict.manifest] if verdict.manifest else []
        lines += [f"tensor {name}: {why}" for name, why in verdict.tensors.items()]
        for line in lines:
            output.say(f"  {line}")
    size = text.size(sum(v.checked_bytes for v in report.verdicts))
    whole = f"{text.several(len(report.verdicts), 'checkpoint')}, {size}"
    if report.damaged:
        fate = "nothing was recorded (--dry-run)" if dry_run else f"{len(report.rejected)} newly rejected"
        output.say(f"{len(report.damaged)} of {whole} damaged; {fate}.")
    else:
        output.say(f"All intact: {whole}.")
    if other is not None:
        _print_mended(report.mended, other)
    elif report.damaged:
        output.say(_WHAT_NEXT)
    for why in [*report.unsigned.values(), *report.unsigned_records]:
        output.say(why)


def _print_mended(mended: list[Mended], other: Repository) -> None:
    for one in mended:
        address = f"{one.run}@{one.id.step}"
        if one.failed is None:
            brought = text.size(one.moved_bytes)
            output.say(f"{address}: whole again; {brought} came from {other.storage.location}.")
        else:
            output.say(f"{address}: still damaged: {one.failed}")
