"""``holdfast verify``: check every chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, MaybeAddress, RepositoryOption, find_wanted, open_repository

if TYPE_CHECKING:
    from collections.abc import Collection

    from holdfast.domain.names import CheckpointId
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run
    from holdfast.repository.verify import Verdict, Verifier

EXAMPLES = (
    "holdfast verify",
    "holdfast verify digits@latest",
    "holdfast verify 'sweep/*' --dry-run --json",
    'holdfast verify --signed-by "$(cat team.pub)"',
)


def command(
    which: MaybeAddress = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report; record no damage, reject nothing.")
    ] = False,
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
    that no run resumes from it; nothing is moved or deleted. Ends with 4 if anything is damaged, else
    with 13 if a checkpoint is not signed as required.
    """
    from holdfast.errors import SignatureError
    from holdfast.repository.signatures import parse_public, trusted_signers

    trusted = trusted_signers() if signed_by is None else parse_public(signed_by)
    opened = open_repository(repository)
    wanted = find_wanted(opened, which)
    verdicts, rejected, note = _check(opened, wanted, dry_run=dry_run)
    damaged = [v for v in verdicts if not v.ok]
    unsigned = _unsigned(opened, verdicts, trusted) if trusted else {}
    if json:
        output.print_json(_told(opened, verdicts, rejected, unsigned))
    else:
        _print(verdicts, rejected, dry_run=dry_run)
        for why in unsigned.values():
            output.say(why)
    if note:
        output.note(note)
    if damaged:
        raise typer.Exit(4)
    if unsigned:
        raise typer.Exit(SignatureError.exit_code)


def _unsigned(
    repository: Repository, verdicts: list[Verdict], trusted: Collection[str]
) -> dict[CheckpointId, str]:
    """Intact checkpoints that nobody trusted has signed, each with what is known of that."""
    from holdfast.errors import SignatureError
    from holdfast.repository.signatures import require

    found = {}
    for verdict in (v for v in verdicts if v.ok):
        run = repository.run(verdict.run)
        try:
            require(run, run.manifest(verdict.id), verdict.id, trusted)
        except SignatureError as error:
            found[verdict.id] = error.what
    return found


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
    repository: Repository,
    verdicts: list[Verdict],
    rejected: list[Verdict],
    unsigned: dict[CheckpointId, str],
) -> dict[str, Any]:
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
                "unsigned": unsigned.get(v.id),
            }
            for v in verdicts
        ],
        "damaged": sum(not v.ok for v in verdicts),
        "checked_bytes": sum(v.checked_bytes for v in verdicts),
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
    output.say(
        "'holdfast repair' says what can be mended. A launch goes on from the newest intact checkpoint."
    )
