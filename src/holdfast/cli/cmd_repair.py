"""``holdfast repair``: mend what can be mended; save what is left of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, RepositoryOption, find_checkpoint, open_repository, place_of
from holdfast.cli.told import live_holders
from holdfast.frameworks.plain_values import plain_value

if TYPE_CHECKING:
    from holdfast.domain.manifest import Manifest
    from holdfast.repository.repairing import Finding
    from holdfast.repository.repository import Repository
    from holdfast.repository.run import Run

EXAMPLES = (
    "holdfast repair",
    "holdfast repair --apply",
    "holdfast repair /data/checkpoints --apply",
    "holdfast repair digits@500 --salvage rescued --apply",
)

_WAIT_SECONDS = 60.0


def command(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="PLACE|RUN@AT",
            help="A repository; or, with --salvage, a checkpoint.",
            show_default=False,
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; else only say what would be done.")] = False,
    salvage: Annotated[
        Path | None,
        typer.Option(
            "--salvage",
            metavar="FOLDER",
            help="Write the intact tensors of RUN@AT there, as .npy files with a tensors.json.",
            show_default=False,
        ),
    ] = None,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Find what is wrong in a repository and mend it; without --apply only say how.

    Mends: a lost or damaged holdfast.json, unreadable records of attempts and tags, damaged
    manifests that block pruning, packs whose index is damaged, records of damage that is gone.
    Unreadable records are kept below 'aside/'. Ends with 4 if something is left to do.
    """
    if salvage is not None:
        _salvage(what, salvage, repository, apply=apply, json=json)
        return
    if what is not None and "@" in what:
        from holdfast.errors import UsageError

        raise UsageError(
            f"What shall become of {what}?", do="Say --salvage FOLDER to save its intact tensors."
        )
    place = place_of(what or repository)
    findings, applied, rejected = _mend(place, apply=apply)
    if json:
        told = [
            {"kind": f.kind, "subject": f.subject, "what": f.what, "do": f.do, "fixable": f.fix is not None}
            for f in findings
        ]
        output.print_json({"place": place, "findings": told, "applied": applied})
    else:
        _print(findings, applied, rejected, apply=apply)
    if len(findings) > applied:
        raise typer.Exit(4)


def _mend(place: str, *, apply: bool) -> tuple[list[Finding], int, list[str]]:
    """What was found, how much of it was mended, and which checkpoints are rejected."""
    from holdfast.repository.repairing import find_config_damage, inspect
    from holdfast.storage.urls import open_storage

    opened, findings = find_config_damage(open_storage(place))
    if opened is None:
        return findings, 0, []
    applied = _apply(opened, findings) if apply else 0
    found = list(inspect(opened, lambda run: bool(live_holders(run))))
    applied += _apply(opened, found) if apply else 0
    return findings + found, applied, [name for run in opened.runs() for name in _rejected(run)]


def _rejected(run: Run) -> list[str]:
    rejected = run.rejected()
    return [f"{run.name}@{c.step}" for c in run.checkpoints() if str(c) in rejected]


def _apply(repository: Repository, findings: list[Finding]) -> int:
    from holdfast.errors import BusyError

    fixes = [finding.fix for finding in findings if finding.fix is not None]
    if not fixes:
        return 0
    with repository.excluding(_WAIT_SECONDS) as held:
        if not held:
            raise BusyError("Another process was saving or reading all the time.", do="Try again.")
        for fix in fixes:
            fix()
    return len(fixes)


def _print(findings: list[Finding], applied: int, rejected: list[str], *, apply: bool) -> None:
    for finding in findings:
        output.say(f"{finding.subject}: {finding.what}")
        output.say(f"  {'→' if finding.fix else '!'} {finding.do}")
    if not findings:
        output.say("Nothing to mend. ('holdfast verify' reads every chunk.)")
        if rejected:
            output.say(
                f"Beyond mending, rejected as damaged: {', '.join(rejected)}. --salvage saves what is intact"
                " of one, 'holdfast rm' removes it."
            )
    elif apply:
        left = len(findings) - applied
        output.say(
            f"{applied} mended" + (f", {left} left." if left else ". Run it again: mending may show more.")
        )
    else:
        fixable = sum(f.fix is not None for f in findings)
        output.say(f"{text.several(len(findings), 'finding')}; {fixable} can be mended with --apply.")


def _salvage(what: str | None, folder: Path, repository: str | None, *, apply: bool, json: bool) -> None:
    from holdfast.errors import UsageError
    from holdfast.repository.salvage import salvage
    from holdfast.repository.verify import Verifier

    if what is None or "@" not in what:
        raise UsageError("Which checkpoint?", do="For example: holdfast repair digits@500 --salvage rescued")
    opened = open_repository(repository)
    run, checkpoint = find_checkpoint(opened, what)
    manifest = run.manifest(checkpoint)
    with output.progress("Reading", manifest.summary.size_bytes) as advance:
        if apply:
            lost = salvage(run, checkpoint, folder, _values, advance).lost
        else:
            verdict = Verifier(opened, advance).check(run, checkpoint)
            lost = verdict.tensors if verdict is not None else {}
    intact = [name for name in manifest.tensors if name not in lost]
    if json:
        output.print_json(
            {"address": what, "folder": str(folder), "written": apply, "intact": intact, "lost": lost}
        )
        return
    for name, why in lost.items():
        output.say(f"lost: {name}: {why.splitlines()[-1].strip()}")
    verb = f"written to {folder}" if apply else "can be written with --apply"
    output.say(f"{len(intact)} of {text.several(len(manifest.tensors), 'tensor')} intact, {verb}.")


def _values(manifest: Manifest) -> dict[str, Any]:
    details = manifest.details
    return {
        "state": plain_value(details.tree),
        "training": plain_value(details.training),
        "given": {name: plain_value(node) for name, node in details.given.items()},
        "environment": details.environment,
    }
