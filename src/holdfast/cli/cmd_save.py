"""``holdfast save``: ask a live run for a checkpoint."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import output, text
from holdfast.cli.options import JsonOption, RepositoryOption, RunArgument, find_run, open_repository
from holdfast.cli.told import entry_json, live_holders

if TYPE_CHECKING:
    from holdfast.domain.names import CheckpointId
    from holdfast.node.process import ProcessIdentity
    from holdfast.repository.records import RequestRecord
    from holdfast.repository.run import Run

EXAMPLES = ("holdfast save digits", "holdfast save digits --tag before-lr-change --wait 120")
_LOOK_SECONDS = 0.2


def command(
    run: RunArgument,
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="A name to give it.", show_default=False)
    ] = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait until it is durable.")
    ] = 60.0,
    repository: RepositoryOption = None,
    json: JsonOption = False,
) -> None:
    """Ask the process that trains RUN to save at its next safe point, and wait until it is durable.

    The trainer looks for requests once a second, at its steps.
    """
    from holdfast.repository.overview import entry

    found = find_run(open_repository(repository), run)
    made = _ask(found, tag, wait)
    if made is None:
        output.note(f"Asked {run} to save; not waiting for it.")
    elif json:
        output.print_json(entry_json(entry(found, made)))
    else:
        output.say(f"{run}@{made.step} is durable" + (f" and tagged {tag}." if tag else "."))


def _ask(run: Run, tag: str | None, wait_seconds: float) -> CheckpointId | None:
    import secrets

    from holdfast.domain.names import validate_tag
    from holdfast.errors import NotFoundError
    from holdfast.repository import records

    holders = live_holders(run)
    if not holders:
        raise NotFoundError(
            f"Nobody trains the run {run.name} now.", do="'holdfast ls' shows what it has saved so far."
        )
    request = records.RequestRecord(secrets.token_hex(8), validate_tag(tag) if tag else None)
    before = set(run.checkpoints())
    run.storage.put_if_absent(run.layout.request(request.nonce), records.encode(request))
    if wait_seconds == 0:
        return None
    return _wait(run, request, before, holders[0], wait_seconds)


def _wait(
    run: Run, request: RequestRecord, seen: set[CheckpointId], holder: ProcessIdentity, wait_seconds: float
) -> CheckpointId:
    from holdfast.errors import BusyError

    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        for checkpoint in set(run.checkpoints()) - seen:
            seen.add(checkpoint)
            if _answers(run, checkpoint, request):
                return checkpoint
        if holder.provably_dead():
            break
        time.sleep(_LOOK_SECONDS)
    key = run.layout.request(request.nonce)
    unseen = run.storage.stat(key) is not None
    run.storage.delete(key)
    died = "ended before it saved" if holder.provably_dead() else "has not saved yet"
    since = f"; the request was {'withdrawn' if unseen else 'taken up'}"
    raise BusyError(
        f"{run.name} ({holder}) {died} after {text.duration(wait_seconds)}{since}.",
        do="A save happens between two steps: wait longer with --wait, or look at the trainer.",
    )


def _answers(run: Run, checkpoint: CheckpointId, request: RequestRecord) -> bool:
    from holdfast.errors import HoldfastError

    try:
        answered = f"request {request.nonce}" in run.summary(checkpoint).reason
    except HoldfastError:
        return False
    if answered and request.tag is not None and run.tags().get(request.tag) != checkpoint:
        run.set_tag(request.tag, checkpoint)  # the trainer took several requests together
    return answered
