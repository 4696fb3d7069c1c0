"""What listings show: every checkpoint of a run with what is recorded about it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from holdfast.domain.lineage import chain
from holdfast.domain.manifest import Summary
from holdfast.domain.names import AttemptId, CheckpointId
from holdfast.errors import BusyError, DamagedError, FormatError, NotFoundError
from holdfast.repository.records import EndRecord
from holdfast.repository.run import Run
from holdfast.repository.summaries import Summaries

LOOKS = 5


class Entry(msgspec.Struct, frozen=True):
    """One checkpoint, as listings show it.

    Attributes
    ----------
    summary : Summary or None
        None if it cannot be read; ``damage`` says why.
    on_line : bool
        Whether it leads to the head; others are dead branches.
    latest : bool
        Whether the run would resume from it.
    """

    run: str
    id: CheckpointId
    summary: Summary | None
    tags: tuple[str, ...] = ()
    rejected: bool = False
    on_line: bool = True
    latest: bool = False
    damage: str | None = None


class RunOverview(msgspec.Struct, frozen=True):
    """One run, as listings show it.

    Attributes
    ----------
    latest : Entry or None
        What it would resume from.
    checkpoints : int
        All that are committed.
    attempts : int
    head : AttemptId or None
        The attempt that counts.
    end : EndRecord or None
        How that attempt ended, if it said so.
    damage : str or None
        Why nothing of it can be told.
    """

    run: str
    latest: Entry | None = None
    checkpoints: int = 0
    attempts: int = 0
    head: AttemptId | None = None
    end: EndRecord | None = None
    damage: str | None = None


def entries(run: Run) -> list[Entry]:
    """Every committed checkpoint, oldest commit first; reads summaries only."""
    return _entries(run, run.checkpoints())


def entry(run: Run, checkpoint: CheckpointId) -> Entry:
    """One checkpoint as listings show it.

    Raises
    ------
    NotFoundError
        It was removed meanwhile.
    """
    found = _entries(run, run.checkpoints(), [checkpoint])
    if not found:
        raise NotFoundError(f"{run.name}@{checkpoint.step} was removed meanwhile.", do="Look again.")
    return found[0]


def _entries(
    run: Run, checkpoints: list[CheckpointId], wanted: Sequence[CheckpointId] | None = None
) -> list[Entry]:
    rejected = run.rejected()
    line = list(chain(run.attempts(), checkpoints))
    latest = next((c for c in line if c.kind == "full" and str(c) not in rejected), None)
    on_line = set(line)
    tags: dict[CheckpointId, list[str]] = defaultdict(list)
    for tag, checkpoint in sorted(run.tags().items()):
        tags[checkpoint].append(tag)
    wanted = checkpoints if wanted is None else wanted
    summaries = Summaries(run, wanted)
    found = []
    for checkpoint in wanted:
        try:
            summary, damage = summaries.of(checkpoint), None
        except NotFoundError:
            continue  # deleted since it was listed
        except (DamagedError, FormatError) as error:
            summary, damage = None, error.what
        found.append(
            Entry(
                run=run.name,
                id=checkpoint,
                summary=summary,
                tags=tuple(tags[checkpoint]),
                rejected=str(checkpoint) in rejected,
                on_line=checkpoint in on_line,
                latest=checkpoint == latest,
                damage=damage,
            )
        )
    return found


def overview(run: Run) -> RunOverview:
    """One run in one line; reads the newest summary only."""
    try:
        attempts = run.attempts()
    except DamagedError as error:
        return RunOverview(run.name, checkpoints=len(run.checkpoints()), damage=error.what)
    head = run.head()
    return RunOverview(
        run=run.name,
        latest=_latest(run),
        checkpoints=len(run.checkpoints()),
        attempts=len(attempts),
        head=head.id if head is not None else None,
        end=run.ends().get(head.id) if head is not None else None,
    )


def _latest(run: Run) -> Entry | None:
    """What it would resume from; looked for again where a live run has replaced it meanwhile."""
    for _ in range(LOOKS):
        latest = run.latest()
        if latest is None:
            return None
        with suppress(NotFoundError):
            return entry(run, latest)
    raise BusyError(f"The run {run.name} replaces its checkpoints faster than they can be read.")
